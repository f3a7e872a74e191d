package org.asrdeploy.bench

import android.app.Activity
import android.app.Instrumentation
import android.os.Bundle
import android.util.Log
import org.asrdeploy.benchcore.JobError
import java.io.File

/**
 * The entry point for computers: `am instrument -w -e job JOB -e result RESULT org.asrdeploy.bench/.JobInstrumentation`, with absolute
 * paths. Without `result`, the result is written to the app's own folder. Reports the path as `result`, and failures as `error`.
 */
class JobInstrumentation : Instrumentation() {
    private var arguments = Bundle.EMPTY

    override fun onCreate(arguments: Bundle?) {
        super.onCreate(arguments)
        this.arguments = arguments ?: Bundle.EMPTY
        start()
    }

    /** Runs the job on the thread that [start] created. */
    override fun onStart() {
        super.onStart()
        val answer = Bundle()
        val error =
            try {
                val storage = targetContext.getExternalFilesDir(null)
                val request = asked(storage)
                runOnDevice(targetContext, request, ::tell).also { answer.putString(RESULT, request.result.path) }.error
            } catch (error: JobError) {
                error.message
            }
        error?.let { answer.putString("error", it) }
        finish(if (error == null) Activity.RESULT_OK else Activity.RESULT_CANCELED, answer)
    }

    private fun asked(storage: File?): JobRequest =
        try {
            JobRequest.of(arguments.getString("job"), arguments.getString(RESULT), storage)
        } catch (error: JobError) {
            Log.e(TAG, error.message)
            throw error
        }

    private fun tell(line: String) = sendStatus(0, Bundle().apply { putString("progress", line) })

    private companion object {
        const val RESULT = "result"
    }
}
