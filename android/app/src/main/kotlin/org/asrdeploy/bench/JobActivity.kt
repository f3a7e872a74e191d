package org.asrdeploy.bench

import android.app.Activity
import android.graphics.Typeface
import android.os.Bundle
import android.os.Handler
import android.os.Looper
import android.view.View
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.WindowManager
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.LinearLayout
import android.widget.ListView
import android.widget.ScrollView
import android.widget.TextView
import java.io.File
import java.util.concurrent.Executors

/**
 * The entry point for people: lists jobs, runs the one that is tapped, and shows its transcripts or times.
 *
 * All jobs run in the same process, so a later job finds a warm runtime and the memory peak of an earlier one. Use
 * [JobInstrumentation], which runs every job in a new process, for figures that are to be quoted.
 */
class JobActivity : Activity() {
    private lateinit var list: ListView
    private lateinit var progress: TextView
    private lateinit var text: TextView
    private var jobs = listOf<File>()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val space = (SPACE * resources.displayMetrics.density).toInt()
        list = ListView(this)
        list.onItemClickListener = AdapterView.OnItemClickListener { _, _, place, _ -> run(jobs[place]) }
        progress = TextView(this).apply { setPadding(space, space, space, space) }
        text =
            TextView(this).apply {
                setPadding(space, 0, space, space)
                setTextIsSelectable(true)
                typeface = Typeface.MONOSPACE
            }
        val scroll = ScrollView(this).apply { addView(text) }
        val column = LinearLayout(this).apply { orientation = LinearLayout.VERTICAL }
        column.addView(list, LinearLayout.LayoutParams(MATCH_PARENT, 0, 1f))
        column.addView(progress)
        column.addView(scroll, LinearLayout.LayoutParams(MATCH_PARENT, 0, 1f))
        setContentView(column)
    }

    override fun onStart() {
        super.onStart()
        jobs = findJobs(getExternalFilesDir(null))
        val names = jobs.map { getString(R.string.job, it.parentFile?.name, it.parent) }
        list.adapter = ArrayAdapter(this, android.R.layout.simple_list_item_1, names)
        worker.watch(::show)
    }

    override fun onStop() {
        worker.unwatch()
        super.onStop()
    }

    private fun run(job: File) {
        val (context, storage) = applicationContext to getExternalFilesDir(null)
        worker.start(job.path) { tell ->
            val request = JobRequest.of(job.path, null, storage)
            val result = runOnDevice(context, request, tell)
            summary(result, request.result) { id, values -> context.getString(id, *values) }
        }
    }

    private fun show(work: Work) {
        val running = work is Work.Running
        list.isEnabled = !running
        if (running) {
            window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        } else {
            window.clearFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        }
        progress.text =
            when (work) {
                is Work.Idle -> getString(if (jobs.isEmpty()) R.string.no_jobs else R.string.choose, PUSHED_JOBS)
                is Work.Running -> getString(R.string.running, work.job, work.line)
                is Work.Ended -> getString(R.string.ended, work.job)
            }
        text.text = if (work is Work.Ended) work.text else ""
        text.visibility = if (work is Work.Ended) View.VISIBLE else View.GONE
    }

    private companion object {
        const val SPACE = 12 // density-independent pixels

        /** Belongs to the process and not to a screen, so that a job keeps running when the phone is rotated. */
        val worker = JobWorker(Executors.newSingleThreadExecutor(), Handler(Looper.getMainLooper())::post)
    }
}
