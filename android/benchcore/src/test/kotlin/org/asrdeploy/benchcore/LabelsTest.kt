package org.asrdeploy.benchcore

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import kotlin.random.Random

/** The label selector, with the golden cases of the Python tests (tests/device_runner/test_labels.py). */
class LabelsTest {
    private val labels = "-|ETAONIHSRDLUMWCFGYPBVK'XJQZ".map { it.toString() }

    private fun heard(frames: String): String {
        val random = Random(frames.length)
        val values = FloatArray(frames.length * labels.size) { random.nextFloat() }
        frames.forEachIndexed { frame, label -> values[frame * labels.size + labels.indexOf(label.toString())] = 10f }
        return selectLabels(Logits(values, labels.size), labels)
    }

    @Test
    fun `golden cases`() {
        val golden =
            mapOf(
                "" to "",
                "-" to "",
                "-----" to "",
                "A" to "A",
                "AAAA" to "A",
                "A-A" to "AA",
                "AA--AA-A" to "AAA",
                "-T-T-" to "TT",
                "ABAB" to "ABAB",
                "SSIIX|||TWO" to "SIX TWO",
                "SIX|-|TWO" to "SIX  TWO",
                "ONE|" to "ONE ",
                "|ONE||--" to " ONE ",
                "IT'S" to "IT'S",
                "--TTHHRR-EE-EE|--" to "THREE ",
            )
        golden.forEach { (frames, text) -> assertEquals(text, heard(frames), frames) }
    }

    @Test
    fun `the first of equal values is the best, and NaN is larger than every number`() {
        fun best(vararg row: Float) = selectLabels(Logits(row, 4), listOf("-", "A", "B", "C"))
        assertEquals("", best(1f, 1f, 1f, 1f))
        assertEquals("A", best(0f, 2f, 2f, 1f))
        assertEquals("B", best(5f, 1f, Float.NaN, Float.NaN))
        assertEquals("A", best(5f, Float.POSITIVE_INFINITY, 1f, 1f))
        assertEquals("", best(-1f, -2f, -3f, -4f))
    }

    @Test
    fun `logits of another width are refused`() {
        assertThrows<IllegalArgumentException> { selectLabels(Logits(FloatArray(10), 5), labels) }
        assertThrows<IllegalArgumentException> { Logits(FloatArray(11), 5) }
    }

    @Test
    fun `base64 is of little-endian floats`() {
        assertEquals("AACAPwAAAMA=", Logits(floatArrayOf(1f, -2f), 2).base64())
    }
}
