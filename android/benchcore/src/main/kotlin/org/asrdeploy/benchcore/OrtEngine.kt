package org.asrdeploy.benchcore

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtProvider
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import ai.onnxruntime.providers.NNAPIFlags
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.EnumSet

private const val INPUT = "input_values"
private const val OUTPUT = "logits"

/** ONNX Runtime through its Java API, which is the same on computers and on Android. */
object OrtRuntime : Runtime {
    private val native =
        mapOf(Provider.CPU to OrtProvider.CPU, Provider.XNNPACK to OrtProvider.XNNPACK, Provider.NNAPI to OrtProvider.NNAPI)

    override fun bringIn(): Pair<String, String> =
        try {
            "onnxruntime" to environment().version
        } catch (error: LinkageError) { // the native library is missing or does not load on this processor
            throw JobError("ONNX Runtime does not run on this device: ${firstLine(error)}.", error)
        }

    override fun open(
        artifact: Artifact,
        threads: Int,
        provider: Provider,
    ): Engine {
        val available = OrtEnvironment.getAvailableProviders()
        if (native.getValue(provider) !in available) {
            val here = native.filterValues { it in available }.keys.joinToString { it.id }
            throw JobError(
                "onnxruntime ${environment().version} has no provider ${provider.id} on this device. Available providers: $here.",
            )
        }
        val session =
            try {
                options(threads, provider).use { environment().createSession(artifact.model.path, it) }
            } catch (error: OrtException) {
                throw JobError("onnxruntime ${environment().version} cannot load ${artifact.model}: ${firstLine(error)}.", error)
            }
        try {
            checkInterface(session, artifact)
        } catch (error: JobError) {
            session.close()
            throw error
        }
        return OrtEngine(environment(), session, artifact)
    }

    private fun environment(): OrtEnvironment = OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR, "benchcore")

    private fun options(
        threads: Int,
        provider: Provider,
    ) = OrtSession.SessionOptions().apply {
        setIntraOpNumThreads(threads)
        setInterOpNumThreads(1)
        setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR)
        when (provider) {
            Provider.CPU -> Unit

            Provider.XNNPACK -> {
                // XNNPACK has its own threads, which would compete with spinning threads of ONNX Runtime.
                addConfigEntry("session.intra_op.allow_spinning", "0")
                addXnnpack(mapOf("intra_op_num_threads" to threads.toString()))
            }

            // NNAPI's CPU kernels are far slower than those of ONNX Runtime.
            Provider.NNAPI -> addNnapi(EnumSet.of(NNAPIFlags.CPU_DISABLED))
        }
    }

    private fun checkInterface(
        session: OrtSession,
        artifact: Artifact,
    ) {
        val inputs = session.inputInfo.mapValues { it.value.info as? TensorInfo }
        val output = session.outputInfo[OUTPUT]?.info as? TensorInfo
        if (inputs.keys != setOf(INPUT) || inputs[INPUT].isNotFloat() || output.isNotFloat()) {
            throw JobError("${artifact.model} is not a model that asrdeploy can run: its input must be $INPUT and its output $OUTPUT.")
        }
        val (width, labels) = (output?.shape?.lastOrNull() ?: -1) to artifact.manifest.labels.size
        if (width >= 0 && width != labels.toLong()) {
            throw JobError(
                "${artifact.model} returns $width logits per frame, but its manifest has $labels labels. Export the model again.",
            )
        }
    }

    private fun TensorInfo?.isNotFloat() = this == null || type != OnnxJavaType.FLOAT
}

private class OrtEngine(
    private val environment: OrtEnvironment,
    private val session: OrtSession,
    private val artifact: Artifact,
) : Engine {
    override fun run(waveform: FloatArray): Inference {
        artifact.checkLength(waveform.size)
        val buffer = ByteBuffer.allocateDirect(Float.SIZE_BYTES * waveform.size).order(ByteOrder.nativeOrder()).asFloatBuffer()
        buffer.duplicate().put(waveform) // duplicate, because Android 8 has no FloatBuffer.rewind()
        try {
            OnnxTensor.createTensor(environment, buffer, longArrayOf(1, waveform.size.toLong())).use { input ->
                val inputs = mapOf(INPUT to input)
                val outputs = setOf(OUTPUT)
                val started = System.nanoTime()
                val result = session.run(inputs, outputs)
                val nanoseconds = System.nanoTime() - started
                result.use {
                    val output = it[0] as OnnxTensor
                    val values = FloatArray(output.info.shape.fold(1L, Long::times).toInt())
                    output.floatBuffer?.get(values)
                    return Inference(Logits.of(values, output.info.shape, artifact, waveform.size), nanoseconds)
                }
            }
        } catch (error: OrtException) {
            throw JobError("${artifact.model} cannot process ${waveform.size} samples: ${firstLine(error)}.", error)
        }
    }

    override fun close() = session.close()
}
