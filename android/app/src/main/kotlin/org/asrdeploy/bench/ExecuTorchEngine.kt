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

/** The release of `org.pytorch:executorch-android` that the app is built with: its classes do not tell. */
const val EXECUTORCH_VERSION = "1.4.0"

private const val METHOD = "forward"

/** ExecuTorch, whose programs (.pte) say themselves what computes them: XNNPACK. */
object ExecuTorch : Runtime {
    override fun bringIn(): Pair<String, String> =
        try {
            ExecuTorchRuntime.getRuntime()
            "executorch" to EXECUTORCH_VERSION
        } catch (error: LinkageError) { // no native library for this processor, or none that it can load
            throw JobError("ExecuTorch does not run on this device: ${firstLine(error)}.", error)
        }

    override fun open(
        artifact: Artifact,
        threads: Int,
        provider: Provider,
    ): Engine {
        if (provider != Provider.CPU) {
            throw JobError("ExecuTorch's delegate is chosen at the export; a .pte file takes no provider ${provider.id}.")
        }
        var module: Module? = null
        try {
            module = Module.load(artifact.model.path, Module.LOAD_MODE_MMAP_USE_MLOCK_IGNORE_ERRORS, threads)
            // Older releases return a code, newer ones throw and return nothing: both are right here.
            val code: Any = module.loadMethod(METHOD)
            if (code is Int && code != 0) throw JobError("ExecuTorch cannot load ${artifact.model}: error $code in $METHOD.")
            return ExecuTorchEngine(module, artifact)
        } catch (error: RuntimeException) { // its exceptions have no other base, and some are this one
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
            // A copy: the next call writes into the same planned memory.
            return Inference(Logits.of(output.dataAsFloatArray, output.shape(), artifact, waveform.size), nanoseconds)
        } catch (error: RuntimeException) { // see above
            throw JobError("${artifact.model} cannot run ${waveform.size} samples: ${firstLine(error)}.", error)
        }
    }

    override fun close() = module.destroy()

    private fun notOurs() = JobError("${artifact.model} is not a speech recogniser of ours: it takes one waveform and gives logits.")
}
