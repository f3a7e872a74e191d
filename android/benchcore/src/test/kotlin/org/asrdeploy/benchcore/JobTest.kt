package org.asrdeploy.benchcore

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import java.io.File

/** Valid and invalid jobs; the ranges are those of docs/schemas/job.v1.schema.json. */
class JobTest {
    @TempDir
    lateinit var folder: File

    private val digest = "0123456789abcdef".repeat(4)
    private val audio = """[{"id": "a", "sha256": "$digest"}]"""

    private fun read(text: String): Job {
        val file = folder.resolve("job.json")
        file.writeText(text)
        return readJob(file).first
    }

    private fun job(more: String = "", audio: String = this.audio) = """{"mode": "latency", "artifact": "$digest", "audio": $audio$more}"""

    private fun refused(text: String): String {
        val sentence = assertThrows<JobError>(text) { read(text) }.message
        assertTrue(sentence.endsWith(".") && "\n" !in sentence && "is not a valid job: " in sentence, sentence)
        return sentence
    }

    @Test
    fun `what is not said has its default`() {
        assertEquals(Job(mode = Mode.LATENCY, artifact = digest, audio = listOf(Audio("a", digest))), read(job()))
        val job = read(job())
        assertEquals(listOf(1, "files", 1, Provider.CPU, false), listOf(job.version, job.files, job.threads, job.provider, job.logits))
        assertEquals(listOf(0, 1, 0.0, Limits()), listOf(job.warmup, job.repeats, job.minimumSeconds, job.limits))
    }

    @Test
    fun `everything that can be said is read`() {
        val more =
            """, "version": 1, "files": "f", "threads": 64, "provider": "xnnpack", "logits": true, "warmup": 3, "repeats": 100,
               "minimum_seconds": 1e1, "limits": {"seconds": 0.5, "celsius": -3}"""
        val expected =
            Job(1, Mode.LATENCY, digest, "f", listOf(Audio("a", digest)), 64, Provider.XNNPACK, true, 3, 100, 10.0, Limits(0.5, -3.0))
        assertEquals(expected, read(job(more)))
        assertEquals(Limits(), read(job(""", "limits": {"seconds": null, "celsius": null}""")).limits)
    }

    @Test
    fun `the sha256 is of the file's bytes`() {
        val file = folder.resolve("job.json")
        file.writeText(job() + "\n")
        assertEquals(sha256((job() + "\n").toByteArray()), readJob(file).second)
        assertEquals("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", sha256(ByteArray(0)))
    }

    @Test
    fun `fields that are unknown, of another kind, or out of range are refused`() {
        val wrong =
            listOf(
                "\"more\": 1",
                "\"version\": 2",
                "\"version\": 0",
                "\"version\": null",
                "\"threads\": 0",
                "\"threads\": 65",
                "\"threads\": 1.5",
                "\"threads\": 99999999999",
                "\"provider\": \"cuda\"",
                "\"provider\": \"CPU\"",
                "\"logits\": 1",
                "\"logits\": null",
                "\"warmup\": -1",
                "\"repeats\": 0",
                "\"minimum_seconds\": -0.1",
                "\"minimum_seconds\": NaN",
                "\"minimum_seconds\": 1e999",
                "\"limits\": null",
                "\"limits\": {\"seconds\": 0}",
                "\"limits\": {\"seconds\": -1}",
                "\"limits\": {\"kelvin\": 1}",
                "\"files\": null",
            )
        for (each in wrong) refused(job(", $each"))
        assertTrue("more" in refused(job(", \"more\": 1")))
        assertTrue("version 2" in refused(job(", \"version\": 2")))
    }

    @Test
    fun `recordings have ids of their own and a sha256`() {
        fun audio(id: String, sha256: String = digest) = """{"id": "$id", "sha256": "$sha256"}"""
        assertTrue("same id" in refused(job(audio = "[${audio("a")}, ${audio("b")}, ${audio("a")}]")))
        assertTrue("no recording" in refused(job(audio = "[]")))
        refused(job(audio = "[${audio("")}]"))
        refused(job(audio = "[${audio("x".repeat(201))}]"))
        refused(job(audio = "[${audio("\\ud800")}]"))
        for (sha256 in listOf("", digest.dropLast(1), digest + "0", digest.uppercase(), "../" + digest.drop(3), "$digest\\n")) {
            refused(job(audio = "[${audio("a", sha256)}]"))
        }
        assertEquals(200, read(job(audio = "[${audio("\uD83D\uDE00".repeat(200))}]")).audio.single().id.codePoints().count())
    }

    @Test
    fun `fields that are missing, and text that is no JSON, are refused`() {
        val texts = listOf("", "[]", "null", "{}", job().dropLast(1), job() + "x", job().replace("latency", "both"), "[".repeat(100_000))
        texts.forEach(::refused)
        for ((field, value) in listOf("mode" to "\"latency\"", "artifact" to "\"$digest\"", "audio" to audio)) {
            assertTrue(field in refused(job().replaceFirst("\"$field\": $value", "\"threads\": 1")))
        }
    }

    @Test
    fun `bytes that are no text, a folder, and a file that is not there are refused in a sentence`() {
        val file = folder.resolve("job.json")
        file.writeBytes(byteArrayOf(0x7B, 0xFF.toByte(), 0x7D))
        assertTrue("it is not UTF-8 text" in assertThrows<JobError> { readJob(file) }.message)
        for (missing in listOf(folder, folder.resolve("none.json"), File("nul\u0000l"))) {
            assertTrue("There is no job file" in assertThrows<JobError> { readJob(missing) }.message)
        }
    }
}
