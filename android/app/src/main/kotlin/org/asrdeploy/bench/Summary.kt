package org.asrdeploy.bench

import org.asrdeploy.benchcore.Result
import org.asrdeploy.benchcore.Timed
import java.io.File
import java.util.Locale
import kotlin.math.floor

/** Texts of the app by their identifiers in [R.string]. */
fun interface Words {
    /** Returns a text with values filled in. */
    fun of(
        id: Int,
        values: Array<Any>,
    ): String
}

/** Returns a summary for the screen: the transcripts or times, why the times may not be quoted, and the path of the result. */
fun summary(
    result: Result,
    file: File,
    words: Words,
): String {
    val lines = mutableListOf<String>()
    result.error?.let { lines += words.of(R.string.failed, arrayOf(it)) }
    result.transcripts.mapTo(lines) { "${it.id}: ${it.hypothesis}" }
    result.timings.mapTo(lines) { times(it, words) }
    result.reasons.mapTo(lines) { words.of(R.string.not_quotable, arrayOf(it)) }
    if (result.device.kind == "emulator" && result.timings.isNotEmpty()) lines += words.of(R.string.emulator, emptyArray())
    lines += words.of(R.string.written, arrayOf(file.path))
    return lines.joinToString("\n")
}

private fun times(
    timed: Timed,
    words: Words,
): String {
    val sorted = timed.samples.sorted()
    val (median, most) = listOf(50, 90).map { number(1000 * percentile(sorted, it), 1) }
    return words.of(R.string.times, arrayOf(timed.id, number(timed.audioSeconds, 1), median, most, sorted.size))
}

private fun number(
    value: Double,
    digits: Int,
): String = "%.${digits}f".format(Locale.ROOT, value)

/** Returns a percentile of [sorted] values, interpolated linearly like in the tables of the host. */
fun percentile(
    sorted: List<Double>,
    percent: Int,
): Double {
    val place = percent / 100.0 * (sorted.size - 1)
    val below = floor(place).toInt()
    val above = minOf(below + 1, sorted.size - 1)
    return sorted[below] + (place - below) * (sorted[above] - sorted[below])
}
