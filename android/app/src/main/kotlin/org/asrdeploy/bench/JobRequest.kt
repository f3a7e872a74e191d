package org.asrdeploy.bench

import org.asrdeploy.benchcore.JobError
import org.asrdeploy.benchcore.firstLine
import org.asrdeploy.benchcore.sha256
import java.io.File
import java.io.IOException
import java.nio.file.Files

/** Where a computer pushes jobs by adb: an app may read there, not write. */
const val PUSHED_JOBS = "/data/local/tmp/asrdeploy/jobs"

/** The name of every job file; the folder that it lies in names the job. */
const val JOB_FILE = "job.json"

private const val JOBS = "jobs"
private const val DIGITS_OF_A_JOB = 16

/** A job that can be read, and where its result can be written. */
class JobRequest private constructor(
    val job: File,
    val result: File,
) {
    companion object {
        /**
         * Checks what is asked for, before a model is loaded for it.
         *
         * @param job absolute path of the job file.
         * @param result absolute path of the result; null: below [storage], under the first digits of the job's sha256.
         * @param storage the app's own folder; null where the device has none at the moment.
         * @throws JobError the job cannot be read, or nothing can be written beside the result.
         */
        fun of(
            job: String?,
            result: String?,
            storage: File?,
        ): JobRequest {
            if (job.isNullOrEmpty()) throw JobError("No job is named: add -e job with the absolute path of its $JOB_FILE.")
            val file = absolute(job)
            if (!file.isFile) throw JobError("There is no job file $file that this app can see; push it below $PUSHED_JOBS.")
            val there = if (result.isNullOrEmpty()) defaultResult(file, storage) else absolute(result)
            makeWritable(there)
            return JobRequest(file, there)
        }

        private fun absolute(path: String): File =
            File(path).also { if (!it.isAbsolute) throw JobError("$path is not an absolute path; name the whole of it.") }

        private fun defaultResult(
            job: File,
            storage: File?,
        ): File {
            val known = storage ?: throw JobError("The device's storage for apps is not mounted; wait for it, or name a result file.")
            val digest =
                try {
                    sha256(job)
                } catch (error: IOException) {
                    throw JobError("$job cannot be read: ${firstLine(error)}; let everyone read it (adb shell chmod a+r).", error)
                }
            return known.resolve(JOBS).resolve(digest.take(DIGITS_OF_A_JOB)).resolve("result.json")
        }

        private fun makeWritable(result: File) {
            val folder = result.parentFile ?: throw JobError("$result is a folder; name a result file.")
            if (result.isDirectory) throw JobError("$result is a folder; name a result file.")
            try {
                Files.createDirectories(folder.toPath())
            } catch (error: IOException) {
                throw JobError("$folder is not writable for this app: ${firstLine(error)}; name a result in the app's own folder.", error)
            }
            if (!Files.isWritable(folder.toPath())) {
                throw JobError("$folder is not writable for this app; name a result in the app's own folder.")
            }
        }
    }
}

/** Returns the jobs that were pushed and those in the app's own folder, by name; [storage] is null where the device has none. */
fun findJobs(
    storage: File?,
    pushed: File = File(PUSHED_JOBS),
): List<File> =
    listOfNotNull(pushed, storage?.resolve(JOBS)).flatMap { folder ->
        folder
            .listFiles()
            .orEmpty()
            .map { it.resolve(JOB_FILE) }
            .filter { it.isFile }
            .sortedBy { it.path }
    }
