package org.asrdeploy.benchcore

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.random.Random

/** Lines files after the process is killed at any byte. */
class LinesTest {
    @TempDir
    lateinit var folder: File

    private val digest = "0".repeat(64)
    private val heard = listOf(Heard("a", 1.5, "É A", 0.25), Heard("b", 2.0, "", 1e-7, "AAAA"), Heard("ö", 1.0, "ß", 0.0))

    private val file by lazy { folder.resolve("result.jsonl") }

    private fun lines(job: String = digest) = Lines(file, job)

    private fun write() {
        lines().start(heard.take(1))
        heard.drop(1).forEach { lines().append(it) }
    }

    @Test
    fun `lines are read as they were written, logits too`() {
        assertEquals(emptyList<Heard>(), lines().read())
        write()
        assertEquals(heard, lines().read())
        assertEquals("""{"job":"$digest"}""", file.readLines().first())
        assertEquals(listOf(file), folder.listFiles()?.toList())
    }

    @Test
    fun `a cut at any byte leaves the whole lines, also within a character`() {
        write()
        val bytes = file.readBytes()
        for (length in bytes.indices) {
            file.writeBytes(bytes.copyOf(length))
            val whole = bytes.copyOf(length).count { it == '\n'.code.toByte() }
            assertEquals(heard.take(maxOf(whole - 1, 0)), lines().read(), "cut at $length")
        }
    }

    @Test
    fun `lines of another job are nothing`() {
        write()
        assertEquals(emptyList<Heard>(), lines("1".repeat(64)).read())
    }

    @Test
    fun `damage is nothing or what was written, and never an exception`() {
        write()
        val bytes = file.readBytes()
        val random = Random(1)
        repeat(500) {
            val damaged = bytes.copyOf()
            repeat(random.nextInt(1, 4)) { damaged[random.nextInt(damaged.size)] = random.nextInt().toByte() }
            file.writeBytes(damaged)
            assertTrue(lines().read().size <= heard.size + 3) // damage may add line feeds
        }
        for (line in listOf("", "{}", "[]", "null", "{\"id\":\"a\",\"audio_seconds\":1,\"samples\":[1]}")) {
            file.writeText("""{"job":"$digest"}""" + "\n$line\n")
            assertEquals(emptyList<Heard>(), lines().read(), line)
        }
    }

    @Test
    fun `the name is the result's with an l, or with jsonl behind`() {
        assertEquals("r.jsonl", Lines.of(File("r.json")).name)
        assertEquals("r.jsonl", Lines.of(File("r")).name)
    }
}
