package org.asrdeploy.benchcore

import kotlinx.serialization.ExperimentalSerializationApi
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.encodeToStream
import java.io.File
import java.io.IOException
import java.io.OutputStream
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.file.Files
import java.nio.file.StandardCopyOption
import java.security.MessageDigest

/** JSON that rejects unknown fields and writes all fields, including defaults. */
internal val STRICT =
    Json {
        encodeDefaults = true
        explicitNulls = true
    }

private const val LARGEST_TEXT_BYTES = 16L shl 20
private const val BLOCK_BYTES = 1 shl 16

/** Returns the sha256 of [bytes] in hexadecimal digits. */
fun sha256(bytes: ByteArray): String = hexadecimal(MessageDigest.getInstance("SHA-256").digest(bytes))

/** Returns the sha256 of [file] in hexadecimal digits, without reading the whole file into memory. */
fun sha256(file: File): String {
    val digest = MessageDigest.getInstance("SHA-256")
    file.inputStream().use { stream ->
        val block = ByteArray(BLOCK_BYTES)
        while (true) {
            val count = stream.read(block)
            if (count < 0) break
            digest.update(block, 0, count)
        }
    }
    return hexadecimal(digest.digest())
}

private fun hexadecimal(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(it) }

/**
 * Reads a job file and returns the job with its sha256.
 *
 * @throws JobError if the file is missing, cannot be read or is not a valid job.
 */
fun readJob(file: File): Pair<Job, String> {
    if (!file.isFile) throw JobError("There is no job file $file. Check the path.")
    val bytes = reading(file) { boundedBytes(file) }
    val job = parsing("$file is not a valid job") { STRICT.decodeFromString(Job.serializer(), text(bytes)) }
    return job to sha256(bytes)
}

/**
 * Returns the content of a file that is named by its sha256.
 *
 * @param limit largest accepted size in bytes.
 * @throws JobError if the file is missing, too large or changed.
 */
internal fun storedBytes(
    files: File,
    digest: String,
    limit: Long,
): ByteArray {
    val file = File(files, digest)
    if (!file.isFile) throw JobError("file $digest is missing from $files. Send it again.")
    val bytes = reading(file) { boundedBytes(file, limit) }
    if (sha256(bytes) != digest) throw JobError("$file does not match its sha256: it was changed or cut short. Send it again.")
    return bytes
}

/** Runs [block], which reads [file], and turns failures of the file system into a [JobError]. */
internal inline fun <T> reading(
    file: File,
    block: () -> T,
): T =
    try {
        block()
    } catch (error: IOException) {
        throw JobError("$file cannot be read: ${firstLine(error)}.", error)
    }

private fun boundedBytes(
    file: File,
    limit: Long = LARGEST_TEXT_BYTES,
): ByteArray {
    if (file.length() > limit) throw JobError("$file has ${file.length()} bytes, more than the limit of $limit. Use a smaller file.")
    return file.readBytes()
}

/** Runs [block], which parses JSON, and turns failures into a [JobError] whose message begins with [sentence]. */
internal inline fun <T> parsing(
    sentence: String,
    block: () -> T,
): T =
    try {
        block()
    } catch (error: SerializationException) {
        throw JobError("$sentence: ${firstLine(error)}.", error)
    } catch (error: IllegalArgumentException) {
        throw JobError("$sentence: ${firstLine(error)}.", error)
    } catch (error: CharacterCodingException) {
        throw JobError("$sentence: it is not UTF-8 text.", error)
    }

/** Decodes UTF-8; throws CharacterCodingException if [bytes] are not UTF-8. */
internal fun text(bytes: ByteArray): String = Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString()

/** Writes a result file atomically, because its existence means that the job has ended. */
@OptIn(ExperimentalSerializationApi::class)
fun writeResult(
    file: File,
    result: Result,
) = replace(file) { stream ->
    pretty.encodeToStream(Result.serializer(), result, stream) // a string with logits would not fit into memory
    stream.write('\n'.code)
}

private val pretty =
    Json(STRICT) {
        prettyPrint = true
    }

/**
 * Writes a file atomically: under a temporary name, which is then renamed.
 *
 * @throws JobError if the file cannot be written.
 */
internal fun replace(
    file: File,
    write: (OutputStream) -> Unit,
) {
    val temporary = File(file.absoluteFile.parentFile, ".${file.name}.part")
    try {
        Files.createDirectories(file.absoluteFile.parentFile.toPath())
        temporary.outputStream().buffered().use(write)
        Files.move(temporary.toPath(), file.toPath(), StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE)
    } catch (error: IOException) {
        throw JobError("Cannot write $file: ${error.javaClass.simpleName}: ${firstLine(error)}.", error)
    } finally {
        temporary.delete() // exists only after a failure
    }
}
