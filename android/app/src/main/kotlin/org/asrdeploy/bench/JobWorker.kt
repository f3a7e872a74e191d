package org.asrdeploy.bench

import org.asrdeploy.benchcore.JobError
import java.util.concurrent.Executor

/** State of the app as shown on the screen. */
sealed interface Work {
    /** No job has been started. */
    data object Idle : Work

    /** [job] is running; [line] is its latest progress, or empty. */
    data class Running(
        val job: String,
        val line: String,
    ) : Work

    /** [job] has ended; [text] is a summary of its result, or an error. */
    data class Ended(
        val job: String,
        val text: String,
    ) : Work
}

/**
 * Runs one job at a time, independently of the screen: a rotated phone creates a new screen, and the job keeps running.
 *
 * @param thread executor that runs the jobs.
 * @param screen executor of the screen's thread, which must run tasks in order. All methods must be called on this thread.
 */
class JobWorker(
    private val thread: Executor,
    private val screen: Executor,
) {
    private var work: Work = Work.Idle
    private var watcher: (Work) -> Unit = {}

    /** Replaces the watcher by [watcher], which receives the current state and all later ones. */
    fun watch(watcher: (Work) -> Unit) {
        this.watcher = watcher
        watcher(work)
    }

    /** Removes the watcher. */
    fun unwatch() {
        watcher = {}
    }

    /**
     * Runs [job] with [run], which receives a callback for progress and returns a summary. A [JobError] becomes the summary.
     *
     * @return false if another job is running.
     */
    fun start(
        job: String,
        run: (progress: (String) -> Unit) -> String,
    ): Boolean {
        if (work is Work.Running) return false
        become(Work.Running(job, ""))
        thread.execute {
            val text =
                try {
                    run { line -> screen.execute { become(Work.Running(job, line)) } }
                } catch (error: JobError) {
                    error.message
                }
            screen.execute { become(Work.Ended(job, text)) }
        }
        return true
    }

    private fun become(now: Work) {
        work = now
        watcher(now)
    }
}
