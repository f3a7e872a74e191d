package org.asrdeploy.bench

import org.asrdeploy.benchcore.JobError
import org.asrdeploy.benchcore.sha256
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import java.io.File

class JobRequestTest {
    @TempDir
    lateinit var folder: File
    private lateinit var job: File
    private val storage get() = folder.resolve("storage")

    @BeforeEach
    fun aJob() {
        job = folder.resolve("pushed/0123/job.json")
        job.parentFile.mkdirs()
        job.writeText("{}")
    }

    private fun complaint(
        job: String?,
        result: String? = null,
        storage: File? = this.storage,
    ): String = assertThrows<JobError> { JobRequest.of(job, result, storage) }.message

    @Test
    fun `without a result it lies in the app's folder under the digits of the job`() {
        val request = JobRequest.of(job.path, null, storage)
        assertEquals(job, request.job)
        assertEquals(storage.resolve("jobs/${sha256("{}".toByteArray()).take(16)}/result.json"), request.result)
        assertTrue(request.result.parentFile.isDirectory)
    }

    @Test
    fun `a result that is named needs no folder of the app`() {
        val result = folder.resolve("elsewhere/below/result.json")
        assertEquals(result, JobRequest.of(job.path, result.path, null).result)
        assertTrue(result.parentFile.isDirectory)
    }

    @Test
    fun `a job that is not named, not there or not absolute is a sentence`() {
        for (nothing in listOf(null, "")) assertTrue("Add -e job" in complaint(nothing))
        val missing = folder.resolve("none/job.json").path
        assertEquals("There is no job file $missing that the app can read. Push it to a folder in $PUSHED_JOBS.", complaint(missing))
        assertEquals("job.json is not an absolute path. Give the full path.", complaint("job.json"))
        assertTrue("There is no job file" in complaint(job.parent))
    }

    @Test
    fun `a result that cannot be written is a sentence`() {
        assertEquals("result.json is not an absolute path. Give the full path.", complaint(job.path, "result.json"))
        val belowAFile = complaint(job.path, "$job/result.json")
        assertTrue(belowAFile.startsWith("The app cannot write to $job: ") && belowAFile.endsWith("."), belowAFile)
        assertTrue("is a folder. Give the path of a result file." in complaint(job.path, folder.path))
        assertTrue("is a folder. Give the path of a result file." in complaint(job.path, "/"))
        assertTrue("choose a result file with -e result." in complaint(job.path, null, null))
    }

    @Test
    fun `jobs are found where they are pushed and in the app's folder`() {
        val own = storage.resolve("jobs/abc/job.json")
        own.parentFile.mkdirs()
        own.writeText("{}")
        storage.resolve("jobs/only-a-result").mkdirs()
        folder.resolve("pushed/a-file").writeText("")
        assertEquals(listOf(job, own), findJobs(storage, folder.resolve("pushed")))
        assertEquals(listOf(job), findJobs(null, folder.resolve("pushed")))
        assertEquals(emptyList<File>(), findJobs(null, folder.resolve("none")))
    }
}
