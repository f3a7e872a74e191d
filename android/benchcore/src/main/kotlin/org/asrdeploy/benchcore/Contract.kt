package org.asrdeploy.benchcore

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable

/** Version of this runner, equal to that of the Python project. */
const val VERSION = "0.1.0"

private val DIGEST = Regex("[0-9a-f]{64}")

/** Throws IllegalArgumentException if [text] is not a sha256 in hexadecimal digits. */
internal fun requireDigest(text: String) = require(DIGEST.matches(text)) { "${text.take(80)} is not a sha256" }

/** Throws IllegalArgumentException if [text] contains unpaired surrogates, which JSON can escape but UTF-8 cannot encode. */
internal fun requireText(text: String) = require(Charsets.UTF_8.newEncoder().canEncode(text)) { "${text.take(80)} is not Unicode text" }

/** A recording of a job: mono WAV, 16-bit or 32-bit float, at the artifact's sample rate. Its file is named by its sha256. */
@Serializable
data class Audio(
    val id: String,
    val sha256: String,
) {
    init {
        require(id.codePointCount(0, id.length) in 1..200) { "the id of a recording must have 1 to 200 characters" }
        requireText(id)
        requireDigest(sha256)
    }
}

/**
 * Limits of a job.
 *
 * @property seconds time limit of the job; it ends with an error after it.
 * @property celsius highest battery temperature before and after a latency job; its result is not valid above it.
 */
@Serializable
data class Limits(
    val seconds: Double? = null,
    val celsius: Double? = null,
) {
    init {
        require(seconds == null || seconds > 0) { "limits.seconds must be a positive number" }
    }
}

/** Kinds of job. */
@Serializable
enum class Mode {
    /** Transcribe recordings. */
    @SerialName("accuracy")
    ACCURACY,

    /** Time repeated runs on fixed inputs, after a warm-up. */
    @SerialName("latency")
    LATENCY,
}

/** Execution provider of ONNX Runtime; [id] is its name in a job. */
@Serializable
enum class Provider(
    val id: String,
) {
    /** ONNX Runtime's CPU kernels. */
    @SerialName("cpu")
    CPU("cpu"),

    /** XNNPACK on the CPU. */
    @SerialName("xnnpack")
    XNNPACK("xnnpack"),

    /** NNAPI, Android's interface to accelerators. */
    @SerialName("nnapi")
    NNAPI("nnapi"),
}

/**
 * What to run.
 *
 * @property artifact sha256 of the artifact's manifest, which lists the sha256 of its files.
 * @property files folder of the files, relative to the job's folder.
 * @property logits accuracy: whether to return the logits, for comparing devices.
 * @property warmup latency: number of warm-up runs per recording, which are discarded.
 * @property repeats latency: minimum number of timed runs per recording.
 * @property minimumSeconds latency: minimum total time of the timed runs per recording.
 */
@Serializable
data class Job(
    val version: Int = 1,
    val mode: Mode,
    val artifact: String,
    val files: String = "files",
    val audio: List<Audio>,
    val threads: Int = 1,
    val provider: Provider = Provider.CPU,
    val logits: Boolean = false,
    val warmup: Int = 0,
    val repeats: Int = 1,
    @SerialName("minimum_seconds") val minimumSeconds: Double = 0.0,
    val limits: Limits = Limits(),
) {
    init {
        require(version == 1) { "version $version is not supported" }
        requireDigest(artifact)
        require(audio.isNotEmpty()) { "there is no recording" }
        require(audio.distinctBy { it.id }.size == audio.size) { "two recordings have the same id" }
        require(threads in 1..64) { "threads must be 1 to 64" }
        require(warmup >= 0) { "warmup must be 0 or more" }
        require(repeats >= 1) { "repeats must be 1 or more" }
        require(minimumSeconds >= 0) { "minimum_seconds must be 0 or more" }
    }
}

/**
 * A line of an accuracy job: the hypothesis of one recording.
 *
 * @property logits if the job asks for them: base64 of little-endian float32 `[frames, labels]`.
 */
@Serializable
data class Heard(
    val id: String,
    @SerialName("audio_seconds") val audioSeconds: Double,
    val hypothesis: String,
    @SerialName("compute_seconds") val computeSeconds: Double,
    val logits: String? = null,
) {
    init {
        require(audioSeconds > 0 && computeSeconds >= 0) { "audio_seconds must be above 0, compute_seconds 0 or more" }
    }
}

/** A line of a latency job: the times of all timed runs of one recording in seconds, in chronological order. */
@Serializable
data class Timed(
    val id: String,
    @SerialName("audio_seconds") val audioSeconds: Double,
    val samples: List<Double>,
)

/**
 * The device that a job ran on, as reported by the runner.
 *
 * @property kind host, emulator or phone.
 * @property int8Exact whether 8-bit products are summed without saturation; null if unknown.
 * @property system operating system and build.
 */
@Serializable
data class DeviceFacts(
    val kind: String,
    val model: String,
    val cpu: String,
    @SerialName("cpu_features") val cpuFeatures: List<String> = emptyList(),
    @SerialName("int8_exact") val int8Exact: Boolean?,
    val abi: String,
    val system: String,
    @SerialName("logical_cpus") val logicalCpus: Int,
    @SerialName("memory_bytes") val memoryBytes: Long,
)

/** State of a device that may change while a job runs; null or empty if the device does not report it. */
@Serializable
data class State(
    val celsius: Map<String, Double> = emptyMap(),
    val kilohertz: List<Long> = emptyList(),
    @SerialName("load_average") val loadAverage: Double? = null,
    @SerialName("battery_celsius") val batteryCelsius: Double? = null,
    @SerialName("battery_percent") val batteryPercent: Double? = null,
    val charging: Boolean? = null,
    @SerialName("screen_on") val screenOn: Boolean? = null,
    @SerialName("thermal_status") val thermalStatus: Int? = null,
)

/**
 * Result of a job. Times are in seconds of the monotonic clock and cover only the call of the runtime; memory is the peak resident
 * memory in bytes.
 *
 * @property job sha256 of the job file.
 * @property runner jvm or app.
 * @property error why the job did not finish.
 * @property resumed accuracy: number of recordings that an earlier process had finished.
 * @property reasons why the times may not be quoted; empty if [valid].
 */
@Serializable
data class Result(
    val version: Int = 1,
    val job: String,
    val runner: String,
    val provider: String = "cpu",
    val error: String? = null,
    val transcripts: List<Heard> = emptyList(),
    val timings: List<Timed> = emptyList(),
    val resumed: Int = 0,
    @SerialName("import_seconds") val importSeconds: Double? = null,
    @SerialName("load_seconds") val loadSeconds: Double? = null,
    @SerialName("first_inference_seconds") val firstInferenceSeconds: Double? = null,
    @SerialName("baseline_bytes") val baselineBytes: Long? = null,
    @SerialName("peak_bytes") val peakBytes: Long? = null,
    val device: DeviceFacts,
    val before: State = State(),
    val after: State = State(),
    val valid: Boolean,
    val reasons: List<String> = emptyList(),
    val versions: Map<String, String>,
)
