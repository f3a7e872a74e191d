package org.asrdeploy.bench

import org.asrdeploy.benchcore.DeviceFacts
import org.asrdeploy.benchcore.Heard
import org.asrdeploy.benchcore.Result
import org.asrdeploy.benchcore.Timed
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test
import org.w3c.dom.Element
import java.io.File
import javax.xml.parsers.DocumentBuilderFactory

class SummaryTest {
    private val file = File("/storage/jobs/0123/result.json")

    /** Texts of the app, by the identifiers of the build. */
    private val words =
        Words { id, values ->
            val name = R.string::class.java.fields.single { it.type == Int::class.java && it.getInt(null) == id }.name
            TEXTS.getValue(name).format(*values)
        }

    private fun result(kind: String = "phone") =
        Result(
            job = "0".repeat(64),
            runner = "app",
            device = DeviceFacts(kind, "model", "cpu", emptyList(), true, "arm64-v8a", "Android", 8, 1),
            valid = true,
            versions = emptyMap(),
        )

    @Test
    fun `transcripts, and where the result lies`() {
        val heard = listOf(Heard("1-2-3", 2.0, "ONE TWO", 0.1), Heard("1-2-4", 2.0, "", 0.1))
        val expected = "1-2-3: ONE TWO\n1-2-4: \nThe result is in $file"
        assertEquals(expected, summary(result().copy(transcripts = heard), file, words))
    }

    @Test
    fun `times with what speaks against them`() {
        val timings = listOf(Timed("two seconds", 2.04, listOf(0.010, 0.030, 0.020)))
        val made = result("emulator").copy(timings = timings, valid = false, reasons = listOf("battery too hot before the job: 40.0 °C"))
        val expected =
            listOf(
                "two seconds (2.0 s): p50 20.0 ms, p90 28.0 ms, 3 runs",
                "These times may not be quoted: battery too hot before the job: 40.0 °C.",
                "Times of an emulator say nothing about a phone.",
                "The result is in $file",
            )
        assertEquals(expected, summary(made, file, words).lines())
    }

    @Test
    fun `an error comes first`() {
        val made = result().copy(error = "There is no model.", valid = false)
        assertEquals("Failed: There is no model.\nThe result is in $file", summary(made, file, words))
    }

    @Test
    fun `percentiles are those of numpy`() {
        assertEquals(5.0, percentile(listOf(5.0), 90))
        assertEquals(2.5, percentile(listOf(1.0, 2.0, 3.0, 4.0), 50))
        assertEquals(3.7, percentile(listOf(1.0, 2.0, 3.0, 4.0), 90), 1e-12)
        assertEquals(4.0, percentile(listOf(1.0, 2.0, 3.0, 4.0), 100))
    }

    private companion object {
        val TEXTS: Map<String, String> =
            DocumentBuilderFactory.newInstance().newDocumentBuilder().parse(File("src/main/res/values/strings.xml")).let { document ->
                val texts = document.getElementsByTagName("string")
                (0 until texts.length).map { texts.item(it) as Element }.associate { it.getAttribute("name") to it.textContent }
            }
    }
}
