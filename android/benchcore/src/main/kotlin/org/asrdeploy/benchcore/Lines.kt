package org.asrdeploy.benchcore

import kotlinx.serialization.KSerializer
import kotlinx.serialization.Serializable
import java.io.File
import java.io.FileOutputStream
import java.io.IOException

/**
 * The lines file of a result: the first line names the job, and each further line is a finished recording. The host shows the lines
 * as progress, and an interrupted job resumes after the last complete line.
 *
 * @param file path of the lines file; see [of].
 * @param job sha256 of the job file.
 */
class Lines(
    private val file: File,
    private val job: String,
) {
    @Serializable
    private data class First(
        val job: String,
    )

    /** Returns the transcripts of earlier processes, or an empty list if the lines are missing, damaged or of another job. */
    fun read(): List<Heard> {
        if (!file.isFile) return emptyList()
        return try {
            val whole = wholeLines(file.readBytes())
            if (STRICT.decodeFromString(First.serializer(), whole.firstOrNull().orEmpty()).job != job) return emptyList()
            whole.drop(1).map { STRICT.decodeFromString(Heard.serializer(), it) }
        } catch (_: IllegalArgumentException) { // includes SerializationException
            emptyList()
        } catch (_: IOException) {
            emptyList()
        }
    }

    /** Starts the file with the line that names the job and the transcripts [kept] from an earlier process. */
    fun start(kept: List<Heard>) =
        replace(file) { stream ->
            stream.write(line(First.serializer(), First(job)))
            kept.forEach { stream.write(line(Heard.serializer(), it)) }
        }

    /** Appends the transcript of one recording. */
    fun append(heard: Heard) = append(Heard.serializer(), heard)

    /** Appends the times of one recording. */
    fun append(timed: Timed) = append(Timed.serializer(), timed)

    private fun <T> append(
        serializer: KSerializer<T>,
        line: T,
    ) = try {
        FileOutputStream(file, true).use { it.write(line(serializer, line)) }
    } catch (error: IOException) {
        throw JobError("Cannot write $file: ${firstLine(error)}. Recordings finished before are kept.", error)
    }

    private fun <T> line(
        serializer: KSerializer<T>,
        line: T,
    ): ByteArray = (STRICT.encodeToString(serializer, line) + "\n").toByteArray()

    /** Returns the complete lines. An incomplete last line may end within a character, so it is dropped before decoding. */
    private fun wholeLines(bytes: ByteArray): List<String> {
        val end = bytes.lastIndexOf('\n'.code.toByte())
        return if (end < 0) emptyList() else text(bytes.copyOf(end)).split("\n")
    }

    companion object {
        /** Returns the path of the lines file that belongs to a result file. */
        fun of(result: File): File =
            File(result.absoluteFile.parentFile, result.name + if (result.name.endsWith(".json")) "l" else ".jsonl")
    }
}
