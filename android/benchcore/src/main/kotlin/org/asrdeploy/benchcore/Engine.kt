package org.asrdeploy.benchcore

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64

/**
 * Logits of one waveform.
 *
 * @property values logits row by row, one row per frame.
 * @property width number of labels per frame.
 */
class Logits(
    val values: FloatArray,
    val width: Int,
) {
    /** Number of frames. */
    val frames: Int = values.size / width

    init {
        require(width > 0 && values.size % width == 0) { "${values.size} values cannot be split into rows of $width" }
    }

    /** Returns the values as base64 of little-endian float32. */
    fun base64(): String {
        val bytes = ByteBuffer.allocate(Float.SIZE_BYTES * values.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.asFloatBuffer().put(values)
        return Base64.getEncoder().encodeToString(bytes.array())
    }

    companion object {
        /**
         * Returns the logits of a model that returned [values] of [shape] for a waveform of [samples] samples.
         *
         * @throws JobError if the shape is not `[1, frames, labels]` with at least one frame and the artifact's number of labels.
         */
        fun of(
            values: FloatArray,
            shape: LongArray,
            artifact: Artifact,
            samples: Int,
        ): Logits {
            val labels = artifact.manifest.labels.size
            if (shape.size != 3 || shape[0] != 1L || shape[1] < 1 || shape[1] * labels != values.size.toLong()) {
                val found = shape.joinToString(" x ")
                throw JobError(
                    "${artifact.model} returns $found logits for $samples samples instead of 1 x frames x $labels. Export the model again.",
                )
            }
            return Logits(values, labels)
        }
    }
}

/**
 * One call of a runtime.
 *
 * @property nanoseconds duration of the runtime's call alone.
 */
class Inference(
    val logits: Logits,
    val nanoseconds: Long,
)

/** A loaded model that turns a waveform into logits, at batch size 1 and without padding. */
interface Engine : AutoCloseable {
    /**
     * Runs the model on a waveform in -1..1 at the artifact's sample rate.
     *
     * @throws JobError if the runtime rejects the waveform.
     */
    fun run(waveform: FloatArray): Inference
}

/** A runtime for one artifact format. */
interface Runtime {
    /**
     * Loads the libraries of the runtime and returns its name and version.
     *
     * @throws JobError if the libraries do not run on this device.
     */
    fun bringIn(): Pair<String, String>

    /**
     * Loads an artifact.
     *
     * @throws JobError if the runtime cannot load the file, asrdeploy cannot run the model, or [provider] is not available.
     */
    fun open(
        artifact: Artifact,
        threads: Int,
        provider: Provider,
    ): Engine
}
