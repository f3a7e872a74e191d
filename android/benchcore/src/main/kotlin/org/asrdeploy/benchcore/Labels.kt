package org.asrdeploy.benchcore

/** Index of the blank label, which stands for no character. */
const val BLANK = 0

private const val WORD_SEPARATOR = "|"

/**
 * Converts logits into text with the greedy CTC label selector of the scenario (3GPP TR 26.847, Figure 2.3-2): takes the arg max of
 * every frame, merges runs of the same label, removes blanks and replaces `|` by a space.
 *
 * @throws IllegalArgumentException if the width of the logits is not the number of labels.
 */
fun selectLabels(
    logits: Logits,
    labels: List<String>,
): String {
    require(logits.width == labels.size) { "logits of width ${logits.width} do not fit ${labels.size} labels" }
    val text = StringBuilder()
    var before = -1
    for (frame in 0 until logits.frames) {
        val best = argMax(logits.values, frame * logits.width, logits.width)
        if (best != before && best != BLANK) text.append(labels[best])
        before = best
    }
    return text.toString().replace(WORD_SEPARATOR, " ")
}

/** Returns the index of the first maximum. Like in numpy, NaN is larger than every number. */
private fun argMax(
    values: FloatArray,
    start: Int,
    width: Int,
): Int {
    var best = 0
    for (index in 1 until width) {
        val (value, largest) = values[start + index] to values[start + best]
        if (value > largest || (value.isNaN() && !largest.isNaN())) best = index
    }
    return best
}
