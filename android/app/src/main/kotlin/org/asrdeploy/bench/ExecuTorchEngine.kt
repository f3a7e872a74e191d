package org.asrdeploy.bench

import org.asrdeploy.benchcore.Artifact
import org.asrdeploy.benchcore.Engine
import org.asrdeploy.benchcore.Inference
import org.asrdeploy.benchcore.JobError
import org.asrdeploy.benchcore.Logits
import org.asrdeploy.benchcore.Provider
import org.asrdeploy.benchcore.Runtime
import org.asrdeploy.benchcore.firstLine
import org.pytorch.executorch.EValue
import org.pytorch.executorch.ExecuTorchRuntime
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** The release of `org.pytorch:executorch-android` that the app is built with; its classes do not report it. */
const val EXECUTORCH_VERSION = "1.4.0"

private const val METHOD = "forward"

/** ExecuTorch. The backend, XNNPACK, is part of the program (.pte). */
object ExecuTorch : Runtime {
    override fun bringIn(): Pair<String, String> =
        try {
            ExecuTorchRuntime.getRuntime()
            "executorch" to EXECUTORCH_VERSION
        } catch (error: LinkageError) { // the native library is missing or does not load on this processor
            throw JobError("ExecuTorch does not run on this device: ${firstLine(error)}.", error)
        }

    override fun open(
        artifact: Artifact,
        threads: Int,
        provider: Provider,
    ): Engine {
        if (provider != Provider.CPU) {
            throw JobError("The provider ${provider.id} does not apply to .pte files, which choose their backend at export. Use cpu.")
        }
        var module: Module? = null
        try {
            module = Module.load(artifact.model.path, Module.LOAD_MODE_MMAP_USE_MLOCK_IGNORE_ERRORS, threads)
            // Older releases return an error code; newer ones throw and return nothing.
            val code: Any = module.loadMethod(METHOD)
            if (code is Int && code != 0) throw JobError("ExecuTorch cannot load ${artifact.model}: error $code in $METHOD.")
            return ExecuTorchEngine(module, artifact)
        } catch (error: RuntimeException) { // the only common base of ExecuTorch's exceptions
            module?.destroy()
            throw JobError("ExecuTorch cannot load ${artifact.model}: ${firstLine(error)}.", error)
        } catch (error: JobError) {
            module?.destroy()
            throw error
        }
    }
}

private class ExecuTorchEngine(
    private val module: Module,
    private val artifact: Artifact,
) : Engine {
    override fun run(waveform: FloatArray): Inference {
        artifact.checkLength(waveform.size)
        try {
            val input = EValue.from(Tensor.fromBlob(waveform, longArrayOf(1, waveform.size.toLong())))
            val started = System.nanoTime()
            val outputs = module.forward(input)
            val nanoseconds = System.nanoTime() - started
            val output = outputs.singleOrNull()?.takeIf { it.isTensor }?.toTensor() ?: throw notOurs()
            // dataAsFloatArray is a copy: the next call overwrites the same memory.
            return Inference(Logits.of(output.dataAsFloatArray, output.shape(), artifact, waveform.size), nanoseconds)
        } catch (error: RuntimeException) { // see above
            throw JobError("${artifact.model} cannot process ${waveform.size} samples: ${firstLine(error)}.", error)
        }
    }

    override fun close() = module.destroy()

    private fun notOurs() =
        JobError(
            "${artifact.model} is not a model that asrdeploy can run: it must have one input, the waveform, and one output, the logits.",
        )
}
