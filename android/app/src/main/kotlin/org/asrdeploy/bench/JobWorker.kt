package org.asrdeploy.bench

import org.asrdeploy.benchcore.JobError
import java.util.concurrent.Executor

/** What the app is doing, as a screen shows it. */
sealed interface Work {
    /** Nothing yet. */
    data object Idle : Work

    /** [job] runs; [line] is what it finished last, empty before that. */
    data class Running(
        val job: String,
        val line: String,
    ) : Work

    /** [job] has ended; [text] is what came of it. */
    data class Ended(
        val job: String,
        val text: String,
    ) : Work
}

/**
 * Runs one job at a time for whichever screen is there: a phone that is turned gets a new one, and the job goes on.
 *
 * @param thread runs the jobs.
 * @param screen runs, one after the other, what belongs to the screen's thread; every method is called there.
 */
class JobWorker(
    private val thread: Executor,
    private val screen: Executor,
) {
    private var work: Work = Work.Idle
    private var watcher: (Work) -> Unit = {}

    /** Tells [watcher], in place of the one before, what is done now and whatever comes. */
    fun watch(watcher: (Work) -> Unit) {
        this.watcher = watcher
        watcher(work)
    }

    /** Ends the telling. */
    fun unwatch() {
        watcher = {}
    }

    /**
     * Runs [job] with [run], which is given what to tell its progress to and returns what came of it; its [JobError] is shown.
     *
     * @return false: another job runs.
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
