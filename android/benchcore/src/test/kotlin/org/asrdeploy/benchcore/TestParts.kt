package org.asrdeploy.benchcore

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Labels of the test artifacts; label 0 is the blank. */
val LABELS = listOf("-", "|", "A", "B", "é")

/** Sample rate of the test artifacts in Hz. */
const val RATE = 16_000

/** Shortest waveform that the test artifacts accept, in samples. */
const val MINIMUM = 100

/** Longest waveform that the test artifacts accept, in samples. */
const val MAXIMUM = 200_000

/** Returns the bytes of a RIFF chunk. */
fun chunk(
    name: String,
    content: ByteArray,
    size: Long = content.size.toLong(),
): ByteArray = name.toByteArray() + little(4, size) + content + ByteArray(content.size % 2)

/** Returns a number as little-endian bytes. */
fun little(
    bytes: Int,
    value: Long,
): ByteArray = ByteArray(bytes) { (value shr (8 * it)).toByte() }

/** Returns the content of a format chunk. */
fun format(
    code: Int = 1,
    channels: Int = 1,
    rate: Long = RATE.toLong(),
    bits: Int = 16,
): ByteArray =
    little(2, code.toLong()) + little(2, channels.toLong()) + little(4, rate) + little(4, rate * channels * bits / 8) +
        little(2, channels * bits / 8L) + little(2, bits.toLong())

/** Returns a WAV file of chunks. */
fun riff(vararg chunks: ByteArray): ByteArray {
    val body = "WAVE".toByteArray() + chunks.fold(ByteArray(0), ByteArray::plus)
    return "RIFF".toByteArray() + little(4, body.size.toLong()) + body
}

/** Returns 16-bit samples as bytes. */
fun shorts(vararg samples: Int): ByteArray = samples.fold(ByteArray(0)) { bytes, each -> bytes + little(2, each.toLong()) }

/** Returns a 16-bit WAV of [samples] samples that all equal [value]. */
fun wav(
    samples: Int,
    value: Int = 0,
    rate: Long = RATE.toLong(),
): ByteArray {
    val content = ByteBuffer.allocate(2 * samples).order(ByteOrder.LITTLE_ENDIAN)
    repeat(samples) { content.putShort(value.toShort()) }
    return riff(chunk("fmt ", format(rate = rate)), chunk("data", content.array()))
}

/** A clock that advances only when a test engine says so. */
class TestClock {
    /** Current time in nanoseconds. */
    var now = 0L

    /** Advances the clock by [seconds]. */
    fun pass(seconds: Double) {
        now += (seconds * 1e9).toLong()
    }
}

/**
 * A test runtime that counts its calls and transcribes every waveform as AB. Each inference advances the clock by [seconds].
 *
 * @property lengths numbers of samples of the waveforms that it received, in order.
 */
class CountingRuntime(
    private val clock: TestClock,
    private val seconds: Double = 0.25,
    private val fail: (run: Int) -> Unit = {},
) : Runtime {
    val lengths = mutableListOf<Int>()
    var opened = 0
    var closed = 0
    var threads = 0

    override fun bringIn(): Pair<String, String> = "counting" to "7"

    override fun open(
        artifact: Artifact,
        threads: Int,
        provider: Provider,
    ): Engine {
        if (provider != Provider.CPU) throw JobError("counting 7 has no provider ${provider.id}.")
        opened += 1
        this.threads = threads
        return object : Engine {
            override fun run(waveform: FloatArray): Inference {
                fail(lengths.size)
                lengths += waveform.size
                clock.pass(seconds)
                return Inference(logitsOf("AA-B"), (seconds * 1e9).toLong())
            }

            override fun close() {
                closed += 1
            }
        }
    }
}

/** Returns logits whose best labels are those in [frames], one character per frame. */
fun logitsOf(frames: String): Logits {
    val values = FloatArray(frames.length * LABELS.size)
    frames.forEachIndexed { frame, label -> values[frame * LABELS.size + LABELS.indexOf(label.toString())] = 1f }
    return Logits(values, LABELS.size)
}

/** A test device that reports the given states. */
class TestDevice(
    private val states: List<State> = listOf(State()),
) : Device {
    private var asked = 0

    override fun facts() = DeviceFacts("host", "model", "cpu", emptyList(), null, "abi", "system", 1, 1)

    override fun state(): State = states[minOf(asked++, states.size - 1)]

    override fun highWaterMark(): Long = 1024
}

/** A folder with a job and its files, and functions to run the job. */
class Workplace(
    val folder: File,
) {
    val clock = TestClock()
    val result = File(folder, "result.json")
    val lines = File(folder, "result.jsonl")
    val job = File(folder, "job.json")
    val files = File(folder, "files").also { it.mkdirs() }

    /** Stores a file under its sha256 and returns the sha256. */
    fun store(bytes: ByteArray): String = sha256(bytes).also { File(files, it).writeBytes(bytes) }

    /** Stores an artifact and returns the sha256 of its manifest. */
    fun artifact(
        format: String = "counting",
        model: ByteArray = "a model".toByteArray(),
        bytes: Int = model.size,
        maximum: Int? = MAXIMUM,
    ): String {
        val labels = LABELS.joinToString { "\"$it\"" }
        val file = """{"name": "model.bin", "bytes": $bytes, "sha256": "${store(model)}"}"""
        return store(
            """{"model": "M", "format": "$format", "files": [$file], "labels": [$labels], "sample_rate": $RATE, "parameters": 1,
               "minimum_samples": $MINIMUM, "maximum_samples": $maximum, "versions": {"deep": "[[]]"}}""".toByteArray(),
        )
    }

    /** Writes a job over recordings a, b, c … with [samples] samples each; [more] is JSON of further fields. */
    fun write(
        vararg samples: Int,
        mode: String = "accuracy",
        artifact: String = artifact(),
        more: String = "",
    ): File {
        val audio = samples.mapIndexed { index, length -> """{"id": "${'a' + index}", "sha256": "${store(wav(length, index))}"}""" }
        job.writeText("""{"mode": "$mode", "artifact": "$artifact", "audio": [${audio.joinToString()}]$more}""")
        return job
    }

    /** Runs the job. */
    fun run(
        runtime: Runtime,
        device: Device = TestDevice(),
        progress: (String) -> Unit = {},
    ): Result {
        val runtimes = mapOf("counting" to runtime, "onnx" to OrtRuntime)
        return runJob(job, result, Bench("jvm", device, runtimes, emptyMap(), { clock.now }, progress))
    }
}
