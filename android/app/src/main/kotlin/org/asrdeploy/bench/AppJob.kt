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

/** Tag of the app's lines in logcat: `adb logcat -s asrdeploy`. */
const val TAG = "asrdeploy"

/** Runtimes of the app by artifact format. */
val RUNTIMES: Map<String, Runtime> = mapOf("onnx" to OrtRuntime, "executorch" to ExecuTorch)

/** Longest time to keep the processor awake, so that a job that hangs does not drain the battery. */
private const val LONGEST_HOURS = 6L

/**
 * Runs a job on this device and on the calling thread, keeps the processor awake meanwhile, and logs to logcat.
 *
 * @param progress callback that receives a line for every finished recording.
 * @throws JobError if the job cannot be started or its result cannot be written.
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
    Log.i(TAG, "Starting ${request.job}. The processor is kept awake for up to $LONGEST_HOURS hours.")
    val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager
    val lock = power.newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "$TAG:job")
    lock.setReferenceCounted(false) // so that releasing it after its timeout is not an error
    lock.acquire(TimeUnit.HOURS.toMillis(LONGEST_HOURS))
    return try {
        val result = runJob(request.job, request.result, bench)
        result.error?.let { Log.e(TAG, it) }
        Log.i(TAG, "Finished ${request.job}. The result is in ${request.result}.")
        result
    } catch (error: JobError) {
        Log.e(TAG, error.message)
        throw error
    } finally {
        lock.release()
    }
}
