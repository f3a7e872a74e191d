package org.asrdeploy.benchcore

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import java.io.File

/** Accuracy jobs: the order of inferences, resuming, and errors. */
class AccuracyTest {
    @TempDir
    lateinit var folder: File
    private lateinit var here: Workplace

    @BeforeEach
    fun begin() {
        here = Workplace(folder)
    }

    private fun runtime(fail: (Int) -> Unit = {}) = CountingRuntime(here.clock, fail = fail)

    @Test
    fun `every recording is heard once, after a first inference of the first one`() {
        here.write(1600, 3200, 800)
        val runtime = runtime()
        val told = mutableListOf<String>()
        val result = here.run(runtime, progress = { told += it })
        assertNull(result.error)
        assertTrue(result.valid)
        assertEquals(listOf(1600, 1600, 3200, 800), runtime.lengths)
        assertEquals(
            listOf(Heard("a", 0.1, "AB", 0.25), Heard("b", 0.2, "AB", 0.25), Heard("c", 0.05, "AB", 0.25)),
            result.transcripts,
        )
        assertEquals(listOf(0, emptyList<Timed>(), 0.25), listOf(result.resumed, result.timings, result.firstInferenceSeconds))
        assertEquals(listOf(1024L, 1024L), listOf(result.baselineBytes, result.peakBytes))
        assertEquals(mapOf("counting" to "7"), result.versions)
        assertEquals(listOf("1 of 3: a", "2 of 3: b", "3 of 3: c"), told)
        assertEquals(listOf(1, 1, 1), listOf(runtime.opened, runtime.closed, runtime.threads))
        assertEquals(setOf("files", "job.json", "result.json", "result.jsonl"), folder.list()?.toSet())
        assertEquals(result, STRICT.decodeFromString(Result.serializer(), here.result.readText()))
    }

    @Test
    fun `logits are told where the job asks`() {
        here.write(1600, more = ", \"logits\": true")
        assertEquals(logitsOf("AA-B").base64(), here.run(runtime()).transcripts.single().logits)
        assertTrue(logitsOf("AA-B").base64() in here.lines.readText())
    }

    @Test
    fun `a job goes on after the lines of the process before, the last of which was cut`() {
        here.write(1600, 3200, 800, more = ", \"logits\": true")
        val whole = here.run(runtime())
        here.lines.writeBytes(here.lines.readBytes().dropLast(9).toByteArray())
        val runtime = runtime()
        val result = here.run(runtime)
        assertEquals(listOf(2, listOf(800, 800)), listOf(result.resumed, runtime.lengths))
        assertEquals(whole.transcripts, result.transcripts)
        assertEquals(4, here.lines.readLines().size)
        val nothing = runtime()
        val again = here.run(nothing)
        assertEquals(listOf(3, 0, whole.transcripts), listOf(again.resumed, nothing.opened, again.transcripts))
        assertNull(again.loadSeconds)
    }

    @Test
    fun `lines that are odd are not gone on after`() {
        here.write(1600, 3200)
        here.run(runtime())
        val (first, a, b) = here.lines.readLines()
        val another = first.replace(Regex("[0-9a-f]{64}"), "0".repeat(64))
        val orders = listOf(listOf(b), listOf(b, a), listOf(a, a), listOf(a, b, a), listOf(a, "{}"))
        val odd = orders.map { listOf(first) + it } + listOf(listOf(another, a), listOf(a, b))
        for (lines in odd) {
            here.lines.writeText(lines.joinToString("") { "$it\n" })
            val result = here.run(runtime())
            assertEquals(listOf(0, 2, null), listOf(result.resumed, result.transcripts.size, result.error), lines.toString())
            assertEquals(listOf(first, a, b), here.lines.readLines())
        }
    }

    @Test
    fun `what is wrong with a recording ends the job with its name, and what is finished is kept`() {
        val broken =
            mapOf(
                wav(1600, rate = 8000) to "8000 Hz",
                wav(MINIMUM - 1) to "at least $MINIMUM",
                wav(MAXIMUM + 1) to "at most $MAXIMUM",
                wav(0) to "no samples",
                wav(1600).copyOf(900) to "cut short",
            )
        for ((bytes, words) in broken) {
            here.write(1600)
            val bad = """{"id": "bad", "sha256": "${here.store(bytes)}"}"""
            here.job.writeText(here.job.readText().replace("}]", "}, $bad]"))
            val result = here.run(runtime())
            assertTrue(result.error.orEmpty().startsWith("bad: ") && words in result.error.orEmpty(), result.error)
            assertEquals(listOf("a"), result.transcripts.map { it.id })
            assertFalse(result.valid)
        }
    }

    @Test
    fun `files that are missing or changed end the job`() {
        val artifact = here.artifact()
        val model = sha256("a model".toByteArray())
        here.write(1600, artifact = artifact)
        val recording = sha256(wav(1600))
        for ((name, subject) in listOf(artifact to "The artifact's manifest", model to "model.bin", recording to "a: ")) {
            val file = File(here.files, name)
            val bytes = file.readBytes()
            file.delete()
            assertTrue(here.run(runtime()).error.orEmpty().let { subject in it && "is missing from" in it })
            val flipped = bytes.copyOf().also { it[bytes.size / 2] = (it[bytes.size / 2] + 1).toByte() }
            for (changed in listOf(bytes.copyOf(bytes.size - 1), flipped)) {
                file.writeBytes(changed)
                assertTrue(here.run(runtime()).error.orEmpty().let { subject in it && "does not match its sha256" in it })
            }
            file.writeBytes(bytes)
        }
        here.write(1600, artifact = here.artifact(bytes = 8))
        assertTrue("does not match" in here.run(runtime()).error.orEmpty())
        here.write(1600, artifact = here.store("{\"format\": []}".toByteArray()))
        assertTrue("is not a valid manifest" in here.run(runtime()).error.orEmpty())
    }

    @Test
    fun `the time that a job may take ends it`() {
        here.write(1600, 1600, 1600, more = ", \"limits\": {\"seconds\": 0.6}")
        val result = here.run(runtime())
        assertTrue("exceeded its time limit of 0.6 s" in result.error.orEmpty(), result.error)
        assertEquals(listOf("a", "b"), result.transcripts.map { it.id })
        assertEquals(3, here.lines.readLines().size)
        val rest = here.run(runtime())
        assertEquals(listOf(2, null, listOf("a", "b", "c")), listOf(rest.resumed, rest.error, rest.transcripts.map { it.id }))
    }

    @Test
    fun `whatever a runtime throws is a sentence`() {
        here.write(1600, 1600)
        val thrown =
            mapOf(
                JobError("the sentence.") to "b: the sentence.",
                IllegalStateException("odd\nlines") to "b: The runtime failed: IllegalStateException: odd.",
                UnsatisfiedLinkError("no libx") to "b: The runtime does not run on this device: no libx.",
                ExceptionInInitializerError(IllegalStateException("deep.")) to "b: The runtime does not run on this device: deep.",
                OutOfMemoryError("heap") to TOO_LARGE,
            )
        for ((error, sentence) in thrown) {
            here.lines.delete()
            val runtime = runtime { run -> if (run == 2) throw error }
            val result = here.run(runtime)
            assertEquals(listOf(sentence, listOf("a"), 1), listOf(result.error, result.transcripts.map { it.id }, runtime.closed))
        }
    }

    @Test
    fun `a provider or a format that is not here is never replaced by another`() {
        here.write(1600, more = ", \"provider\": \"nnapi\"")
        val result = here.run(runtime())
        assertEquals(listOf("counting 7 has no provider nnapi.", "nnapi"), listOf(result.error, result.provider))
        here.write(1600, artifact = here.artifact("coreml"))
        val sentence = "No engine on this device runs the format “coreml”. Supported formats: counting, onnx."
        assertEquals(sentence, here.run(runtime()).error)
    }

    @Test
    fun `ONNX Runtime refuses what is no model, and providers that it has not`() {
        here.write(1600, artifact = here.artifact("onnx"))
        val result = here.run(runtime())
        assertTrue("cannot load" in result.error.orEmpty(), result.error)
        assertTrue("onnxruntime" in result.versions)
        here.write(1600, artifact = here.artifact("onnx"), more = ", \"provider\": \"nnapi\"")
        assertTrue("has no provider nnapi on this device. Available providers: cpu" in here.run(runtime()).error.orEmpty())
    }

    @Test
    fun `what is no job is refused before anything is touched, as where both files are named in the wrong order`() {
        here.job.writeText("{}")
        here.result.writeText("old")
        assertTrue("is not a valid job" in assertThrows<JobError> { here.run(runtime()) }.message)
        assertEquals(listOf("old", false), listOf(here.result.readText(), here.lines.exists()))
    }

    @Test
    fun `without a job file, or a place for the result, nothing is written`() {
        assertTrue("no job file" in assertThrows<JobError> { here.run(runtime()) }.message)
        here.write(1600)
        here.result.mkdir()
        assertTrue("cannot be replaced" in assertThrows<JobError> { here.run(runtime()) }.message)
        val bench = Bench("jvm", TestDevice(), emptyMap(), emptyMap())
        assertTrue("Cannot write" in assertThrows<JobError> { runJob(here.job, File(here.job, "result.json"), bench) }.message)
        assertEquals(setOf("files", "job.json", "result.json"), folder.list()?.toSet())
    }
}
