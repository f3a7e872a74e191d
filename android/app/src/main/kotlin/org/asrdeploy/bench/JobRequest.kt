package org.asrdeploy.bench

import org.asrdeploy.benchcore.JobError
import org.asrdeploy.benchcore.firstLine
import org.asrdeploy.benchcore.sha256
import java.io.File
import java.io.IOException
import java.nio.file.Files

/** Folder that a computer pushes jobs to with adb. Apps can read it but not write to it. */
const val PUSHED_JOBS = "/data/local/tmp/asrdeploy/jobs"

/** Name of every job file; its folder names the job. */
const val JOB_FILE = "job.json"

private const val JOBS = "jobs"
private const val DIGITS_OF_A_JOB = 16

/** A job file that can be read, and a result file that can be written. */
class JobRequest private constructor(
    val job: File,
    val result: File,
) {
    companion object {
        /**
         * Checks the paths of a job before a model is loaded.
         *
         * @param job absolute path of the job file.
         * @param result absolute path of the result; null for a folder in [storage] named by the first digits of the job's sha256.
         * @param storage the app's own folder; null if it is not available at the moment.
         * @throws JobError if the job cannot be read or the result cannot be written.
         */
        fun of(
            job: String?,
            result: String?,
            storage: File?,
        ): JobRequest {
            if (job.isNullOrEmpty()) throw JobError("No job is given. Add -e job with the absolute path of its $JOB_FILE.")
            val file = absolute(job)
            if (!file.isFile) throw JobError("There is no job file $file that the app can read. Push it to a folder in $PUSHED_JOBS.")
            val there = if (result.isNullOrEmpty()) defaultResult(file, storage) else absolute(result)
            makeWritable(there)
            return JobRequest(file, there)
        }

        private fun absolute(path: String): File =
            File(path).also { if (!it.isAbsolute) throw JobError("$path is not an absolute path. Give the full path.") }

        private fun defaultResult(
            job: File,
            storage: File?,
        ): File {
            val known = storage ?: throw JobError("The storage for apps is not mounted. Wait, or choose a result file with -e result.")
            val digest =
                try {
                    sha256(job)
                } catch (error: IOException) {
                    throw JobError("$job cannot be read: ${firstLine(error)}. Make it readable with adb shell chmod a+r.", error)
                }
            return known.resolve(JOBS).resolve(digest.take(DIGITS_OF_A_JOB)).resolve("result.json")
        }

        private fun makeWritable(result: File) {
            val folder = result.parentFile ?: throw JobError("$result is a folder. Give the path of a result file.")
            if (result.isDirectory) throw JobError("$result is a folder. Give the path of a result file.")
            try {
                Files.createDirectories(folder.toPath())
            } catch (error: IOException) {
                throw JobError("The app cannot write to $folder: ${firstLine(error)}. Choose a result file in the app's own folder.", error)
            }
            if (!Files.isWritable(folder.toPath())) {
                throw JobError("The app cannot write to $folder. Choose a result file in the app's own folder.")
            }
        }
    }
}

/**
 * Returns the jobs that were pushed, followed by those in the app's own folder, each sorted by path.
 *
 * @param storage the app's own folder; null if it is not available.
 * @param pushed folder of the pushed jobs.
 */
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
