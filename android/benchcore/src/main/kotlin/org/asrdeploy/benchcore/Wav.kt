package org.asrdeploy.benchcore

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Largest accepted WAV file in bytes, to limit memory: about half an hour of 16-bit audio at 16 kHz. */
const val LARGEST_WAV_BYTES = 64L shl 20

private const val PCM = 1
private const val FLOAT = 3
private const val EXTENSIBLE = 0xFFFE
private const val MOST_CHUNKS = 1000

/** Data size in the header of a WAV that was written to a pipe, whose length was not known in advance. */
private const val UNKNOWN_SIZE = 0xFFFF_FFFFL

/** Bytes after the format code in the GUID of WAVE_FORMAT_EXTENSIBLE (KSDATAFORMAT_SUBTYPE_*). */
private val SUBTYPE_TAIL = listOf(0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xAA, 0, 0x38, 0x9B, 0x71)

private class Format(
    val code: Int,
    val channels: Int,
    val rate: Long,
    val bits: Int,
)

/**
 * Reads a mono WAV, 16-bit PCM or 32-bit float, plain or WAVE_FORMAT_EXTENSIBLE. Integers are scaled to -1..1.
 *
 * @param bytes content of the file.
 * @param sampleRate required sample rate in Hz.
 * @throws JobError if the file is not a WAV, is cut short or empty, has several channels, another sample rate or samples that are
 *     not finite.
 */
fun readWav(
    bytes: ByteArray,
    sampleRate: Int,
): FloatArray {
    val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    if (bytes.size < 12 || name(buffer, 0) != "RIFF" || name(buffer, 8) != "WAVE") {
        throw JobError("it is not a WAV file; send a mono WAV file, 16-bit or 32-bit float.")
    }
    var format: Format? = null
    var position = 12L
    repeat(MOST_CHUNKS) {
        if (position + 8 > bytes.size) throw cutShort()
        val chunk = name(buffer, position.toInt())
        val claimed = buffer.getInt(position.toInt() + 4).toLong() and 0xFFFF_FFFFL
        val start = position + 8
        if (chunk == "data") {
            val here = bytes.size - start
            if (claimed != UNKNOWN_SIZE && claimed > here) throw cutShort()
            val known = format ?: throw JobError("it is damaged: its samples come before its format; record it again.")
            return samples(buffer, known, start.toInt(), minOf(claimed, here).toInt(), sampleRate)
        }
        if (start + claimed > bytes.size) throw cutShort()
        if (chunk == "fmt ") format = format(buffer, start.toInt(), claimed)
        position = start + claimed + claimed % 2 // chunks start at even offsets
    }
    throw JobError("it is damaged: its first $MOST_CHUNKS chunks contain no samples; record it again.")
}

private fun cutShort() = JobError("it is cut short or damaged: it contains less audio than its header states; copy or record it again.")

private fun name(
    buffer: ByteBuffer,
    position: Int,
): String = String(buffer.array(), position, 4, Charsets.ISO_8859_1)

private fun format(
    buffer: ByteBuffer,
    start: Int,
    size: Long,
): Format {
    if (size < 16) throw JobError("it is damaged: its format chunk has $size bytes instead of 16 or more; record it again.")
    var code = short(buffer, start)
    if (code == EXTENSIBLE) {
        val tail = SUBTYPE_TAIL.indices.map { if (size < 40) -1 else buffer.get(start + 26 + it).toInt() and 0xFF }
        if (tail == SUBTYPE_TAIL) code = short(buffer, start + 24)
    }
    val rate = buffer.getInt(start + 4).toLong() and 0xFFFF_FFFFL
    return Format(code, short(buffer, start + 2), rate, short(buffer, start + 14))
}

private fun short(
    buffer: ByteBuffer,
    position: Int,
): Int = buffer.getShort(position).toInt() and 0xFFFF

private fun samples(
    buffer: ByteBuffer,
    format: Format,
    start: Int,
    size: Int,
    sampleRate: Int,
): FloatArray {
    if (format.channels != 1) throw JobError("it has ${format.channels} channels; convert it to mono, which the models require.")
    if (format.rate != sampleRate.toLong()) {
        throw JobError("it has a sample rate of ${format.rate} Hz; convert it to $sampleRate Hz, which the model requires.")
    }
    val waveform =
        when {
            format.code == PCM && format.bits == 16 -> FloatArray(size / 2) { buffer.getShort(start + 2 * it) / 32768f }
            format.code == FLOAT && format.bits == 32 -> FloatArray(size / 4) { buffer.getFloat(start + 4 * it) }
            else -> throw JobError("its samples have ${format.bits} bits in format ${format.code}; convert it to 16-bit PCM.")
        }
    if (waveform.isEmpty()) throw JobError("it contains no samples; leave it out or record it again.")
    if (!waveform.all { it.isFinite() }) {
        throw JobError("it contains samples that are not finite numbers (NaN or infinity); convert or record it again.")
    }
    return waveform
}
