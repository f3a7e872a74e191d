package org.asrdeploy.benchcore

import java.io.File

private const val NANOSECONDS = 1e9

/** Error of a job that runs out of memory. */
internal const val TOO_LARGE = "The job requires more memory than is available. Use shorter recordings or a smaller model."

/**
 * The environment that a job runs in.
 *
 * @property runner jvm or app.
 * @property runtimes runtimes by the artifact format that they run.
 * @property versions versions of parts of the system.
 * @property clock monotonic clock in nanoseconds.
 * @property progress callback that receives a line for every finished recording.
 */
class Bench(
    val runner: String,
    val device: Device,
    val runtimes: Map<String, Runtime>,
    val versions: Map<String, String>,
    val clock: () -> Long = System::nanoTime,
    val progress: (String) -> Unit = {},
)

/** What a job has produced so far. The result contains it even if the job fails. */
private class Made {
    val transcripts = mutableListOf<Heard>()
    val timings = mutableListOf<Timed>()
    var resumed = 0
    var importSeconds: Double? = null
    var loadSeconds: Double? = null
    var firstInferenceSeconds: Double? = null
    var baselineBytes: Long? = null
    var peakBytes: Long? = null
    var versions = mapOf<String, String>()
}

/**
 * Runs a job and writes its result. If the job fails, the reason is the `error` of the result.
 *
 * An accuracy job resumes after the lines of an earlier process; a latency job starts from the beginning.
 *
 * @throws JobError if the job cannot be read, in which case an older result is kept, or if the result cannot be written.
 */
fun runJob(
    jobFile: File,
    resultFile: File,
    bench: Bench,
): Result {
    val (job, digest) = readJob(jobFile)
    if (resultFile.isDirectory || (resultFile.exists() && !resultFile.delete())) {
        throw JobError("$resultFile cannot be replaced. Choose another result file.")
    }
    val before = bench.device.state()
    val made = Made()
    val error = complaint { JobRun(job, jobFile, Lines(Lines.of(resultFile), digest), bench, made).run() }
    val after = bench.device.state()
    val reasons = whyNotQuotable(job, before, after)
    val result =
        Result(
            job = digest,
            runner = bench.runner,
            provider = job.provider.id,
            error = error,
            transcripts = made.transcripts,
            timings = made.timings,
            resumed = made.resumed,
            importSeconds = made.importSeconds,
            loadSeconds = made.loadSeconds,
            firstInferenceSeconds = made.firstInferenceSeconds,
            baselineBytes = made.baselineBytes,
            peakBytes = made.peakBytes,
            device = bench.device.facts(),
            before = before,
            after = after,
            valid = error == null && reasons.isEmpty(),
            reasons = reasons,
            versions = bench.versions + made.versions,
        )
    writeResult(resultFile, result)
    return result
}

private inline fun complaint(block: () -> Unit): String? =
    try {
        block()
        null
    } catch (error: JobError) {
        error.message
    } catch (_: OutOfMemoryError) {
        TOO_LARGE
    }

/** Runs [block], which calls a runtime, and turns the undeclared exceptions of native code into a [JobError]. */
private inline fun <T> native(block: () -> T): T =
    try {
        block()
    } catch (error: RuntimeException) {
        throw JobError("The runtime failed: ${error.javaClass.simpleName}: ${firstLine(error)}.", error)
    } catch (error: LinkageError) { // the native library is for another processor or lacks a function
        throw JobError("The runtime does not run on this device: ${firstLine(error)}.", error)
    }

/** Returns why the times of a latency job may not be quoted, judged by the state of the device. */
fun whyNotQuotable(
    job: Job,
    before: State,
    after: State,
): List<String> {
    if (job.mode == Mode.ACCURACY) return emptyList()
    return listOf("before" to before, "after" to after).flatMap { (moment, state) ->
        val (celsius, limit) = state.batteryCelsius to job.limits.celsius
        val throttled = state.thermalStatus ?: 0
        listOfNotNull(
            if (celsius != null && limit != null && celsius > limit) {
                "battery too hot $moment the job: ${plain(celsius)} °C, more than ${plain(limit)} °C"
            } else {
                null
            },
            if (throttled > 0) "throttled $moment the job: thermal status $throttled" else null,
        )
    }
}

/** Returns a number as Python prints it: 45 rather than 45.0, so that a reason is worded alike on every runner. */
private fun plain(value: Double): String = value.toBigDecimal().stripTrailingZeros().toPlainString()

private class JobRun(
    private val job: Job,
    jobFile: File,
    private val lines: Lines,
    private val bench: Bench,
    private val made: Made,
) {
    private val files = jobFile.absoluteFile.parentFile.resolve(job.files)
    private val started = bench.clock()

    fun run() {
        val earlier = if (job.mode == Mode.ACCURACY) lines.read() else emptyList()
        if (earlier.map { it.id } == job.audio.take(earlier.size).map { it.id }) made.transcripts += earlier
        made.resumed = made.transcripts.size
        lines.start(made.transcripts)
        val artifact = openArtifact(files, job.artifact)
        val remaining = job.audio.drop(made.resumed)
        if (remaining.isEmpty()) return
        when (job.mode) {
            Mode.ACCURACY -> transcribe(remaining, artifact)
            Mode.LATENCY -> time(artifact)
        }
    }

    private fun transcribe(
        remaining: List<Audio>,
        artifact: Artifact,
    ) {
        val first = read(remaining.first(), artifact)
        load(artifact).use { engine ->
            firstInference(engine, remaining.first(), first)
            for (each in remaining) {
                checkTime()
                val waveform = read(each, artifact)
                val start = bench.clock()
                val logits = about(each.id) { infer(engine, waveform) }.logits
                val hypothesis = selectLabels(logits, artifact.manifest.labels)
                val seconds = (bench.clock() - start) / NANOSECONDS
                val audioSeconds = waveform.size.toDouble() / artifact.manifest.sampleRate
                val heard = Heard(each.id, audioSeconds, hypothesis, seconds, if (job.logits) logits.base64() else null)
                lines.append(heard)
                made.transcripts += heard
                made.peakBytes = bench.device.highWaterMark()
                tell(each)
            }
        }
    }

    private fun time(artifact: Artifact) {
        val waveforms = job.audio.associateWith { read(it, artifact) }
        val longest = waveforms.maxBy { it.value.size }
        load(artifact).use { engine ->
            firstInference(engine, longest.key, longest.value)
            for ((each, waveform) in waveforms) {
                val samples = about(each.id) { timed(engine, waveform) }
                val timed = Timed(each.id, waveform.size.toDouble() / artifact.manifest.sampleRate, samples)
                lines.append(timed)
                made.timings += timed
                tell(each)
            }
        }
    }

    /** Returns the times of all timed runs of one recording in seconds. */
    private fun timed(
        engine: Engine,
        waveform: FloatArray,
    ): List<Double> {
        System.gc() // now, so that it does not happen during a timed run
        repeat(job.warmup) {
            checkTime()
            infer(engine, waveform)
        }
        val samples = mutableListOf<Long>()
        var total = 0L
        while (samples.size < job.repeats || total < job.minimumSeconds * NANOSECONDS) {
            checkTime()
            samples += infer(engine, waveform).nanoseconds
            total += samples.last()
        }
        return samples.map { it / NANOSECONDS }
    }

    private fun load(artifact: Artifact): Engine {
        val format = artifact.manifest.format
        val runtime =
            bench.runtimes[format]
                ?: throw JobError(
                    "No engine on this device runs the format “$format”. " +
                        "Supported formats: ${bench.runtimes.keys.sorted().joinToString()}.",
                )
        val start = bench.clock()
        made.versions += native { runtime.bringIn() }
        made.importSeconds = (bench.clock() - start) / NANOSECONDS
        made.baselineBytes = bench.device.highWaterMark()
        val imported = bench.clock()
        val engine = native { runtime.open(artifact, job.threads, job.provider) }
        made.loadSeconds = (bench.clock() - imported) / NANOSECONDS
        return engine
    }

    private fun firstInference(
        engine: Engine,
        audio: Audio,
        waveform: FloatArray,
    ) {
        checkTime()
        made.firstInferenceSeconds = about(audio.id) { infer(engine, waveform) }.nanoseconds / NANOSECONDS
        made.peakBytes = bench.device.highWaterMark()
    }

    private fun infer(
        engine: Engine,
        waveform: FloatArray,
    ): Inference = native { engine.run(waveform) }

    private fun read(
        audio: Audio,
        artifact: Artifact,
    ): FloatArray =
        about(audio.id) {
            val bytes = storedBytes(files, audio.sha256, LARGEST_WAV_BYTES)
            readWav(bytes, artifact.manifest.sampleRate).also { artifact.checkLength(it.size) }
        }

    private fun tell(audio: Audio) {
        val finished = made.transcripts.size + made.timings.size
        bench.progress("$finished of ${job.audio.size}: ${audio.id}")
    }

    private fun checkTime() {
        val limit = job.limits.seconds ?: return
        if ((bench.clock() - started) / NANOSECONDS > limit) {
            throw JobError("The job exceeded its time limit of $limit s. Finished recordings are kept.")
        }
    }
}
