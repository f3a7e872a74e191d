package org.asrdeploy.benchcore

import kotlinx.serialization.KSerializer
import kotlinx.serialization.Serializable
import java.io.File
import java.io.FileOutputStream
import java.io.IOException

/**
 * The lines beside a result: the first names the job, then one for whatever was finished. A host shows them while the job runs, and
 * a process that was killed leaves every whole line to the next one.
 *
 * @param file see [of].
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

    /** Returns what earlier processes of this job had heard; nothing where the lines are of another job, damaged or missing. */
    fun read(): List<Heard> {
        if (!file.isFile) return emptyList()
        return try {
            val whole = wholeLines(file.readBytes())
            if (STRICT.decodeFromString(First.serializer(), whole.firstOrNull().orEmpty()).job != job) return emptyList()
            whole.drop(1).map { STRICT.decodeFromString(Heard.serializer(), it) }
        } catch (_: IllegalArgumentException) { // of serialization, too
            emptyList()
        } catch (_: IOException) {
            emptyList()
        }
    }

    /** Writes the first line, and those that are kept of an earlier process. */
    fun start(kept: List<Heard>) =
        replace(file) { stream ->
            stream.write(line(First.serializer(), First(job)))
            kept.forEach { stream.write(line(Heard.serializer(), it)) }
        }

    /** Appends what was heard in one recording. */
    fun append(heard: Heard) = append(Heard.serializer(), heard)

    /** Appends the times of one recording. */
    fun append(timed: Timed) = append(Timed.serializer(), timed)

    private fun <T> append(
        serializer: KSerializer<T>,
        line: T,
    ) = try {
        FileOutputStream(file, true).use { it.write(line(serializer, line)) }
    } catch (error: IOException) {
        throw JobError("$file cannot be written: ${firstLine(error)}.", error)
    }

    private fun <T> line(
        serializer: KSerializer<T>,
        line: T,
    ): ByteArray = (STRICT.encodeToString(serializer, line) + "\n").toByteArray()

    /** Returns the lines up to the last line feed; what follows was cut off while it was written, maybe within a character. */
    private fun wholeLines(bytes: ByteArray): List<String> {
        val end = bytes.lastIndexOf('\n'.code.toByte())
        return if (end < 0) emptyList() else text(bytes.copyOf(end)).split("\n")
    }

    companion object {
        /** Returns the file of lines beside a result. */
        fun of(result: File): File =
            File(result.absoluteFile.parentFile, result.name + if (result.name.endsWith(".json")) "l" else ".jsonl")
    }
}
