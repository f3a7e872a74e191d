package org.asrdeploy.benchcore

/**
 * An error that the user can fix.
 *
 * @param message one line that says what is wrong and how to fix it.
 */
class JobError(
    override val message: String,
    cause: Throwable? = null,
) : Exception(message, cause)

/** Runs [block] and prefixes the message of a [JobError] with [name], for example the id of a recording. */
inline fun <T> about(name: String, block: () -> T): T =
    try {
        block()
    } catch (error: JobError) {
        throw JobError("$name: ${error.message}", error)
    }

/** Returns the first line of the message of an exception or its cause, without a full stop, to be used in another message. */
fun firstLine(error: Throwable): String {
    val line = generateSequence(error) { it.cause }.firstNotNullOfOrNull { each -> each.message?.trim()?.ifEmpty { null } }
    return (line?.lineSequence()?.first()?.trim() ?: error.javaClass.simpleName).trimEnd('.')
}
