package org.asrdeploy.bench

import org.asrdeploy.benchcore.Artifact
import org.asrdeploy.benchcore.Bench
import org.asrdeploy.benchcore.Computer
import org.asrdeploy.benchcore.JobError
import org.asrdeploy.benchcore.Manifest
import org.asrdeploy.benchcore.ModelFile
import org.asrdeploy.benchcore.Provider
import org.asrdeploy.benchcore.Result
import org.asrdeploy.benchcore.runJob
import org.asrdeploy.benchcore.sha256
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Error messages of the app's engines if their native library is missing or the model cannot be loaded. */
class EnginesTest {
    @TempDir
    lateinit var folder: File

    @Test
    fun `executorch without its native library is a sentence`() {
        val sentence = assertThrows<JobError> { ExecuTorch.bringIn() }.message
        assertTrue(sentence.startsWith("ExecuTorch does not run on this device: ") && sentence.endsWith("."), sentence)
    }

    @Test
    fun `executorch takes no provider`() {
        val digest = "0".repeat(64)
        val manifest = Manifest(1, "executorch", listOf(ModelFile("model.pte", 1, digest)), listOf("-", "A"), 16000, 400)
        for (provider in listOf(Provider.XNNPACK, Provider.NNAPI)) {
            val error = assertThrows<JobError> { ExecuTorch.open(Artifact(manifest, folder.resolve(digest)), 1, provider) }
            assertTrue("The provider ${provider.id} does not apply to .pte files" in error.message)
        }
    }

    @Test
    fun `a job whose engine does not run here ends with a result that says so`() {
        val result = run("executorch")
        assertEquals("app", result.runner)
        assertTrue(result.error.orEmpty().startsWith("ExecuTorch does not run on this device: "), result.error)
        assertFalse(result.valid)
    }

    @Test
    fun `a model that onnx runtime cannot load ends with a result that says so`() {
        val result = run("onnx")
        assertTrue("cannot load" in result.error.orEmpty(), result.error)
        assertTrue("onnxruntime" in result.versions)
    }

    @Test
    fun `a format of another project is named beside those that run`() {
        assertEquals("No engine on this device runs the format “tflite”. Supported formats: executorch, onnx.", run("tflite").error)
    }

    private fun run(format: String): Result {
        val model = store("no model".toByteArray())
        val file = """{"name": "model", "bytes": 8, "sha256": "$model"}"""
        val facts = """"labels": ["-", "A"], "sample_rate": 16000, "minimum_samples": 400"""
        val artifact = store("""{"version": 1, "format": "$format", "files": [$file], $facts}""".toByteArray())
        val audio = """{"id": "1-2-3", "sha256": "${store(wav(1600))}"}"""
        val job = folder.resolve("job.json")
        job.writeText("""{"version": 1, "mode": "accuracy", "artifact": "$artifact", "audio": [$audio]}""")
        return runJob(job, folder.resolve("result.json"), Bench("app", Computer(), RUNTIMES, emptyMap()))
    }

    private fun store(content: ByteArray): String {
        val digest = sha256(content)
        folder.resolve("files").mkdirs()
        folder.resolve("files/$digest").writeBytes(content)
        return digest
    }

    private fun wav(samples: Int): ByteArray {
        val bytes = ByteBuffer.allocate(44 + 2 * samples).order(ByteOrder.LITTLE_ENDIAN)
        bytes.put("RIFF".toByteArray()).putInt(36 + 2 * samples).put("WAVEfmt ".toByteArray()).putInt(16)
        bytes.putShort(1).putShort(1).putInt(16000).putInt(32000).putShort(2).putShort(16)
        bytes.put("data".toByteArray()).putInt(2 * samples)
        return bytes.array()
    }
}
