package org.asrdeploy.bench

import org.asrdeploy.benchcore.JobError
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

class JobWorkerTest {
    /** Tasks of the job thread, run by the tests. */
    private val waiting = ArrayDeque<Runnable>()
    private val worker = JobWorker({ waiting.addLast(it) }, { it.run() })
    private val seen = mutableListOf<Work>()

    @Test
    fun `a screen sees a job from its start to its end`() {
        worker.watch(seen::add)
        assertTrue(
            worker.start("job") { tell ->
                tell("1 of 2: a")
                tell("2 of 2: b")
                "a: HELLO"
            },
        )
        waiting.removeFirst().run()
        val running = listOf("", "1 of 2: a", "2 of 2: b").map { Work.Running("job", it) }
        assertEquals(listOf(Work.Idle) + running + Work.Ended("job", "a: HELLO"), seen)
    }

    @Test
    fun `a problem is what came of the job`() {
        worker.start("job") { throw JobError("There is no model.") }
        waiting.removeFirst().run()
        worker.watch(seen::add)
        assertEquals(listOf(Work.Ended("job", "There is no model.")), seen)
    }

    @Test
    fun `one job runs at a time`() {
        worker.start("first") { "" }
        assertFalse(worker.start("second") { "" })
        waiting.removeFirst().run()
        assertTrue(waiting.isEmpty())
        assertTrue(worker.start("second") { "" })
    }

    @Test
    fun `a phone that is turned has a new screen, which sees the job that runs`() {
        worker.watch(seen::add)
        worker.start("job") { tell ->
            tell("1 of 1: a")
            "a: HELLO"
        }
        worker.unwatch()
        val later = mutableListOf<Work>()
        worker.watch(later::add)
        waiting.removeFirst().run()
        assertEquals(listOf(Work.Idle, Work.Running("job", "")), seen)
        assertEquals(listOf(Work.Running("job", ""), Work.Running("job", "1 of 1: a"), Work.Ended("job", "a: HELLO")), later)
    }

    @Test
    fun `a job runs on its thread, and the screen is told on its own`() {
        val (jobs, screen) = List(2) { Executors.newSingleThreadExecutor() }
        try {
            val told = LinkedBlockingQueue<Pair<Work, Thread>>()
            val worker = JobWorker(jobs, screen)
            val threadOf = { executor: ExecutorService -> executor.submit<Thread> { Thread.currentThread() }.get() }
            screen.submit { worker.watch { told.add(it to Thread.currentThread()) } }.get()
            screen.submit { worker.start("job") { Thread.currentThread().id.toString() } }.get()
            val all = List(3) { told.poll(1, TimeUnit.MINUTES) }
            assertEquals(Work.Ended("job", threadOf(jobs).id.toString()), all.last()?.first)
            assertEquals(setOf(threadOf(screen)), all.map { it?.second }.toSet())
        } finally {
            jobs.shutdown()
            screen.shutdown()
        }
    }
}
