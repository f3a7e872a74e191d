package org.asrdeploy.benchcore

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64

/**
 * What a model gives for one waveform.
 *
 * @property values row by row, a row a frame.
 * @property width labels of a frame.
 */
class Logits(
    val values: FloatArray,
    val width: Int,
) {
    /** Number of frames. */
    val frames: Int = values.size / width

    init {
        require(width > 0 && values.size % width == 0) { "${values.size} values are no rows of $width" }
    }

    /** Returns base64 of the values as little-endian float32. */
    fun base64(): String {
        val bytes = ByteBuffer.allocate(Float.SIZE_BYTES * values.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.asFloatBuffer().put(values)
        return Base64.getEncoder().encodeToString(bytes.array())
    }

    companion object {
        /**
         * Returns the logits of a model that gave [values] of [shape] for a waveform of [samples] samples.
         *
         * @throws JobError they are not `[1, frames, labels]` with a frame at least, or not as wide as the artifact has labels.
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
                throw JobError("${artifact.model} gives $found logits for $samples samples, not 1 x frames x $labels labels.")
            }
            return Logits(values, labels)
        }
    }
}

/**
 * One call of a runtime.
 *
 * @property nanoseconds of the runtime's call alone.
 */
class Inference(
    val logits: Logits,
    val nanoseconds: Long,
)

/** A loaded model: waveform in, logits out, at batch 1 and exact length. */
interface Engine : AutoCloseable {
    /**
     * Runs the model on a waveform in -1..1 at the artifact's sample rate.
     *
     * @throws JobError the runtime refuses it.
     */
    fun run(waveform: FloatArray): Inference
}

/** A runtime for one artifact format. */
interface Runtime {
    /**
     * Brings the runtime's libraries in and returns its name and version.
     *
     * @throws JobError they do not run here.
     */
    fun bringIn(): Pair<String, String>

    /**
     * Loads an artifact.
     *
     * @throws JobError the runtime refuses the file, it is no speech recogniser of ours, or [provider] is not to be had.
     */
    fun open(
        artifact: Artifact,
        threads: Int,
        provider: Provider,
    ): Engine
}
