package org.asrdeploy.benchcore

/**
 * A problem that a user can cause and end.
 *
 * @param message one sentence that says what is wrong and what to do.
 */
class JobError(
    override val message: String,
    cause: Throwable? = null,
) : Exception(message, cause)

/** Runs [block]; a [JobError] in it gets [name] in front, so that the sentence says which recording it is about. */
inline fun <T> about(name: String, block: () -> T): T =
    try {
        block()
    } catch (error: JobError) {
        throw JobError("$name: ${error.message}", error)
    }

/** The first line of an exception's message, or of its cause's, without its full stop: what of it fits into a sentence. */
fun firstLine(error: Throwable): String {
    val line = generateSequence(error) { it.cause }.firstNotNullOfOrNull { each -> each.message?.trim()?.ifEmpty { null } }
    return (line?.lineSequence()?.first()?.trim() ?: error.javaClass.simpleName).trimEnd('.')
}
