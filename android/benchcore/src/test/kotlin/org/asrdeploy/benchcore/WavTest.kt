package org.asrdeploy.benchcore

import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.io.RandomAccessFile
import kotlin.random.Random

/** Valid WAV files give samples; hostile, truncated or damaged ones give an error message. */
class WavTest {
    private val samples = shorts(0, 1, -1, 32767, -32768)
    private val values = floatArrayOf(0f, 1 / 32768f, -1 / 32768f, 32767 / 32768f, -1f)
    private val floats = floatArrayOf(0f, -0.5f, 2.5f, 1e-30f)
    private val floatBytes = floats.fold(ByteArray(0)) { bytes, each -> bytes + little(4, each.toRawBits().toLong()) }

    private fun refused(bytes: ByteArray): String {
        val sentence = assertThrows<JobError> { readWav(bytes, RATE) }.message
        assertTrue(sentence.endsWith(".") && "\n" !in sentence, sentence)
        return sentence
    }

    private fun extensible(
        code: Int,
        bits: Int,
        tail: ByteArray = byteArrayOf(0, 0, 0, 0, 0x10, 0, 0x80.toByte(), 0, 0, 0xAA.toByte(), 0, 0x38, 0x9B.toByte(), 0x71),
    ) = format(0xFFFE, bits = bits) + little(2, 22) + little(2, bits.toLong()) + little(4, 4) + little(2, code.toLong()) + tail

    @Test
    fun `16 bit and 32-bit float, plain and extensible, with other chunks around`() {
        val data = chunk("data", samples)
        assertArrayEquals(values, readWav(riff(chunk("fmt ", format()), data), RATE))
        assertArrayEquals(values, readWav(riff(chunk("fmt ", extensible(1, 16)), data), RATE))
        val list = chunk("LIST", ByteArray(7))
        assertArrayEquals(values, readWav(riff(list, chunk("fmt ", format() + little(2, 0)), list, data, list), RATE))
        val head = chunk("fmt ", format(3, bits = 32))
        assertArrayEquals(floats, readWav(riff(head, chunk("fact", little(4, 4)), chunk("data", floatBytes)), RATE))
        assertArrayEquals(floats, readWav(riff(chunk("fmt ", extensible(3, 32)), chunk("data", floatBytes)), RATE))
    }

    @Test
    fun `a WAV from a pipe has no size and goes to the end of the file, without half a sample`() {
        val piped = riff(chunk("fmt ", format()), chunk("data", samples + 7, 0xFFFF_FFFF)).dropLast(1).toByteArray()
        assertArrayEquals(values, readWav(piped, RATE))
    }

    @Test
    fun `what is no WAV of a recognised kind is refused with its reason`() {
        val format = chunk("fmt ", format())
        val data = chunk("data", samples)
        assertTrue("not a WAV" in refused(ByteArray(0)))
        assertTrue("not a WAV" in refused("fLaC and more".toByteArray()))
        assertTrue("no samples" in refused(riff(format, chunk("data", ByteArray(0)))))
        assertTrue("before its format" in refused(riff(data, format)))
        assertTrue("2 channels" in refused(riff(chunk("fmt ", format(channels = 2)), data)))
        assertTrue("0 channels" in refused(riff(chunk("fmt ", format(channels = 0)), data)))
        assertTrue("8000 Hz" in refused(riff(chunk("fmt ", format(rate = 8000)), data)))
        assertTrue("4294967295 Hz" in refused(riff(chunk("fmt ", format(rate = 0xFFFF_FFFF)), data)))
        assertTrue("24 bits" in refused(riff(chunk("fmt ", format(bits = 24)), data)))
        assertTrue("format 6" in refused(riff(chunk("fmt ", format(6)), data)))
        assertTrue("format 65534" in refused(riff(chunk("fmt ", extensible(1, 16, ByteArray(14))), data)))
        assertTrue("14 bytes" in refused(riff(chunk("fmt ", format().copyOf(14)), data)))
        assertTrue("1000 chunks" in refused(riff(ByteArray(0), *Array(1001) { chunk("JUNK", ByteArray(0)) }, data)))
    }

    @Test
    fun `samples that are not finite are refused`() {
        for (bits in listOf(0x7FC0_0000L, 0x7F80_0000L, 0xFF80_0000L)) {
            assertTrue("not finite" in refused(riff(chunk("fmt ", format(3, bits = 32)), chunk("data", floatBytes + little(4, bits)))))
        }
    }

    @Test
    fun `sizes that reach beyond the file are refused`() {
        val format = chunk("fmt ", format())
        for (size in listOf(11L, 0x7FFF_FFFFL, 0x8000_0000L, 0xFFFF_FFFEL)) {
            assertTrue("cut short" in refused(riff(format, chunk("data", samples, size))))
            assertTrue("cut short" in refused(riff(chunk("LIST", samples, size), format)))
        }
        assertTrue("cut short" in refused(riff(chunk("fmt ", format(), 0xFFFF_FFFF), chunk("data", samples))))
    }

    @Test
    fun `every cut of a file is refused`() {
        val whole = riff(chunk("fmt ", format()), chunk("fact", ByteArray(4)), chunk("data", samples))
        for (length in whole.indices) refused(whole.copyOf(length))
    }

    @Test
    fun `any damage gives finite samples, no more than the file holds, or a sentence`() {
        val whole =
            listOf(
                riff(chunk("fmt ", format()), chunk("LIST", ByteArray(5)), chunk("data", samples)),
                riff(chunk("fmt ", extensible(3, 32)), chunk("fact", ByteArray(4)), chunk("data", floatBytes)),
            )
        val hostile = byteArrayOf(0, 1, 2, 16, 0x7F, 0x80.toByte(), 0xFE.toByte(), 0xFF.toByte())
        val random = Random(26847)
        var read = 0
        repeat(6000) { round ->
            val bytes = whole[round % 2].copyOf()
            repeat(random.nextInt(1, 5)) {
                val place = random.nextInt(bytes.size)
                bytes[place] = if (random.nextBoolean()) hostile.random(random) else random.nextInt().toByte()
            }
            val damaged = if (random.nextInt(4) == 0) bytes.copyOf(random.nextInt(bytes.size + 9)) else bytes
            try {
                val waveform = readWav(damaged, RATE)
                assertTrue(waveform.isNotEmpty() && 2 * waveform.size <= damaged.size && waveform.all { it.isFinite() })
                read += 1
            } catch (error: JobError) {
                assertTrue(error.message.endsWith("."), error.message)
            }
        }
        assertTrue(read in 500..5500, "$read of 6000 were read: the damage is too small or too large to tell anything")
    }

    @Test
    fun `a file larger than any recording is refused before it is read`(
        @TempDir folder: File,
    ) {
        val name = "0".repeat(64)
        RandomAccessFile(folder.resolve(name), "rw").use { it.setLength(LARGEST_WAV_BYTES + 1) }
        val sentence = assertThrows<JobError> { storedBytes(folder, name, LARGEST_WAV_BYTES) }.message
        assertTrue("more than the limit of $LARGEST_WAV_BYTES" in sentence, sentence)
    }
}
