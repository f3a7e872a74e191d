package org.asrdeploy.bench

import android.content.Context
import android.os.Build
import android.os.PowerManager
import android.util.Log
import org.asrdeploy.benchcore.Bench
import org.asrdeploy.benchcore.JobError
import org.asrdeploy.benchcore.OrtRuntime
import org.asrdeploy.benchcore.Result
import org.asrdeploy.benchcore.Runtime
import org.asrdeploy.benchcore.VERSION
import org.asrdeploy.benchcore.runJob
import java.util.concurrent.TimeUnit

/** What the app's lines in logcat are found by: `adb logcat -s asrdeploy`. */
const val TAG = "asrdeploy"

/** The runtimes of the app by artifact format. */
val RUNTIMES: Map<String, Runtime> = mapOf("onnx" to OrtRuntime, "executorch" to ExecuTorch)

/** A processor that is kept awake for ever empties the battery of a phone that is forgotten with a job that hangs. */
private const val LONGEST_HOURS = 6L

/**
 * Runs a job on this device, on the calling thread, with the processor kept awake; tells logcat what it does.
 *
 * @param progress is told in a line what has just been finished.
 * @throws JobError the job cannot be begun, or its result cannot be written.
 */
fun runOnDevice(
    context: Context,
    request: JobRequest,
    progress: (String) -> Unit,
): Result {
    val versions =
        mapOf(
            "app" to VERSION,
            "benchcore" to VERSION,
            "kotlin" to KotlinVersion.CURRENT.toString(),
            "android" to Build.VERSION.RELEASE,
        )
    val bench =
        Bench("app", AndroidDevice(context), RUNTIMES, versions) { line ->
            Log.i(TAG, line)
            progress(line)
        }
    Log.i(TAG, "${request.job} begins; the processor is kept awake for it, $LONGEST_HOURS hours at most.")
    val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager
    val lock = power.newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "$TAG:job")
    lock.setReferenceCounted(false) // so that it may be released after its time is over
    lock.acquire(TimeUnit.HOURS.toMillis(LONGEST_HOURS))
    return try {
        val result = runJob(request.job, request.result, bench)
        result.error?.let { Log.e(TAG, it) }
        Log.i(TAG, "${request.job} has ended; its result is ${request.result}.")
        result
    } catch (error: JobError) {
        Log.e(TAG, error.message)
        throw error
    } finally {
        lock.release()
    }
}
