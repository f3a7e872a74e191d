package org.asrdeploy.benchcore

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File

/** Latency jobs: how often each recording runs, and when the times are not valid. */
class LatencyTest {
    @TempDir
    lateinit var folder: File
    private lateinit var here: Workplace

    @BeforeEach
    fun begin() {
        here = Workplace(folder)
    }

    private fun runtime() = CountingRuntime(here.clock)

    @Test
    fun `first the longest, then warm-up and repeats of every recording in the job's order`() {
        here.write(800, 3200, 1600, mode = "latency", more = ", \"warmup\": 2, \"repeats\": 3, \"threads\": 4")
        val runtime = runtime()
        val result = here.run(runtime)
        assertNull(result.error)
        assertEquals(listOf(3200) + List(5) { 800 } + List(5) { 3200 } + List(5) { 1600 }, runtime.lengths)
        val samples = listOf(0.25, 0.25, 0.25)
        assertEquals(listOf(Timed("a", 0.05, samples), Timed("b", 0.2, samples), Timed("c", 0.1, samples)), result.timings)
        assertEquals(listOf(0.25, emptyList<Heard>(), 4), listOf(result.firstInferenceSeconds, result.transcripts, runtime.threads))
        assertEquals(4, here.lines.readLines().size)
    }

    @Test
    fun `at least so many seconds of timed runs, whatever the repeats`() {
        here.write(800, 1600, mode = "latency", more = ", \"repeats\": 2, \"minimum_seconds\": 1.1")
        assertEquals(listOf(5, 5), here.run(runtime()).timings.map { it.samples.size })
    }

    @Test
    fun `a job of times begins anew`() {
        here.write(800, 1600, mode = "latency")
        here.run(runtime())
        val runtime = runtime()
        val result = here.run(runtime)
        assertEquals(listOf(0, 3), listOf(result.resumed, runtime.lengths.size))
        assertEquals(3, here.lines.readLines().size)
    }

    @Test
    fun `the time that a job may take ends it in the midst of a recording`() {
        here.write(800, 1600, mode = "latency", more = ", \"repeats\": 10, \"limits\": {\"seconds\": 4}")
        val result = here.run(runtime())
        assertTrue("exceeded its time limit of 4.0 s" in result.error.orEmpty(), result.error)
        assertEquals(listOf("a"), result.timings.map { it.id })
        here.write(800, mode = "latency", more = ", \"warmup\": 1000000, \"limits\": {\"seconds\": 4}")
        assertTrue("exceeded its time limit" in here.run(runtime()).error.orEmpty())
    }

    @Test
    fun `heat and throttling are reasons, before and after`() {
        here.write(800, mode = "latency", more = ", \"limits\": {\"celsius\": 37}")
        fun run(vararg states: State): List<String> {
            val result = here.run(runtime(), TestDevice(states.toList()))
            assertEquals(result.reasons.isEmpty(), result.valid)
            return result.reasons
        }
        assertEquals(emptyList<String>(), run(State(), State()))
        assertEquals(emptyList<String>(), run(State(batteryCelsius = 37.0, thermalStatus = 0)))
        assertEquals(
            listOf("battery too hot after the job: 37.5 °C, more than 37 °C", "throttled after the job: thermal status 2"),
            run(State(batteryCelsius = 36.0), State(batteryCelsius = 37.5, thermalStatus = 2)),
        )
        assertEquals(listOf("throttled before the job: thermal status 1"), run(State(thermalStatus = 1), State()))
        here.write(800, mode = "latency")
        assertTrue(run(State(batteryCelsius = 90.0)).isEmpty())
        here.write(800)
        assertTrue(run(State(thermalStatus = 6)).isEmpty())
    }

    @Test
    fun `a job that failed is not valid, and has no reasons of its own`() {
        here.write(800, mode = "latency", more = ", \"provider\": \"xnnpack\"")
        val result = here.run(runtime())
        assertFalse(result.valid)
        assertTrue(result.reasons.isEmpty() && result.timings.isEmpty())
    }

    @Test
    fun `a recording that cannot be read ends a job of times before anything is loaded`() {
        here.write(800, 50, mode = "latency")
        val runtime = runtime()
        assertTrue(here.run(runtime).error.orEmpty().startsWith("b: The audio has 50 samples"))
        assertEquals(0, runtime.opened)
    }
}
