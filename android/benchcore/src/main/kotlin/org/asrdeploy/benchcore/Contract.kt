package org.asrdeploy.benchcore

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable

/** Version of this runner; the same as the Python project's. */
const val VERSION = "0.1.0"

private val DIGEST = Regex("[0-9a-f]{64}")

/** Throws IllegalArgumentException where [text] is no sha256 in hexadecimal digits. */
internal fun requireDigest(text: String) = require(DIGEST.matches(text)) { "${text.take(80)} is not a sha256" }

/** Throws IllegalArgumentException where [text] holds half a character, which JSON can write and no file can hold. */
internal fun requireText(text: String) = require(Charsets.UTF_8.newEncoder().canEncode(text)) { "${text.take(80)} is not Unicode text" }

/** A recording of a job: mono WAV, 16-bit or 32-bit float, at the artifact's sample rate; its file's name is its sha256. */
@Serializable
data class Audio(
    val id: String,
    val sha256: String,
) {
    init {
        require(id.codePointCount(0, id.length) in 1..200) { "a recording's id has 1 to 200 characters" }
        requireText(id)
        requireDigest(sha256)
    }
}

/**
 * Where a job stops, and where its times stop counting.
 *
 * @property seconds the job ends with an error after this time.
 * @property celsius a latency job whose battery is hotter before or after it is not valid.
 */
@Serializable
data class Limits(
    val seconds: Double? = null,
    val celsius: Double? = null,
) {
    init {
        require(seconds == null || seconds > 0) { "limits.seconds is a positive number" }
    }
}

/** The two kinds of job, never mixed. */
@Serializable
enum class Mode {
    /** Transcripts of a set. */
    @SerialName("accuracy")
    ACCURACY,

    /** Fixed inputs, warm-up, many repeats. */
    @SerialName("latency")
    LATENCY,
}

/** What ONNX Runtime computes with; [id] is its name in a job. */
@Serializable
enum class Provider(
    val id: String,
) {
    /** The CPU's own kernels. */
    @SerialName("cpu")
    CPU("cpu"),

    /** The CPU by XNNPACK. */
    @SerialName("xnnpack")
    XNNPACK("xnnpack"),

    /** Android's interface to accelerators. */
    @SerialName("nnapi")
    NNAPI("nnapi"),
}

/**
 * What to run.
 *
 * @property artifact sha256 of the artifact's manifest, which names its files' sha256.
 * @property files folder of the files, relative to the job's.
 * @property logits accuracy: every line has its logits, for comparing devices.
 * @property warmup latency: runs discarded before every recording's timed ones.
 * @property repeats latency: timed runs of every recording at least.
 * @property minimumSeconds latency: sum of the timed runs of every recording at least.
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
        require(version == 1) { "version $version is unknown" }
        requireDigest(artifact)
        require(audio.isNotEmpty()) { "there is no recording" }
        require(audio.distinctBy { it.id }.size == audio.size) { "two recordings have the same id" }
        require(threads in 1..64) { "threads are 1 to 64" }
        require(warmup >= 0) { "warmup is not negative" }
        require(repeats >= 1) { "repeats are at least 1" }
        require(minimumSeconds >= 0) { "minimum_seconds is not negative" }
    }
}

/**
 * A line of an accuracy job: what was heard in one recording.
 *
 * @property logits where the job asks: base64 of little-endian float32 `[frames, labels]`.
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
        require(audioSeconds > 0 && computeSeconds >= 0) { "seconds are not negative" }
    }
}

/** A line of a latency job: every timed run of one recording, in the order of time (seconds). */
@Serializable
data class Timed(
    val id: String,
    @SerialName("audio_seconds") val audioSeconds: Double,
    val samples: List<Double>,
)

/**
 * What a job ran on, as its runner sees it.
 *
 * @property kind host, emulator or phone.
 * @property int8Exact 8-bit products are summed without saturation; null: not known.
 * @property system operating system and its build.
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

/** What may change while a job runs; what the device does not tell is null or empty. */
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
 * What came of a job. Times in seconds of the monotonic clock, around the runtime's call alone; memory is the high-water mark of
 * resident memory in bytes.
 *
 * @property job sha256 of the job file.
 * @property runner jvm or app.
 * @property error why the job could not be run to its end, in one sentence.
 * @property resumed accuracy: recordings that an earlier process had finished.
 * @property reasons why the times may not be quoted; empty where [valid].
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
