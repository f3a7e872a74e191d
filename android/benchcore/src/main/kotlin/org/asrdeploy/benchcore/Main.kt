package org.asrdeploy.benchcore

import java.io.File
import java.io.FileDescriptor
import java.io.FileOutputStream
import java.io.PrintStream
import kotlin.system.exitProcess

private const val USAGE = "usage: java -jar benchcore.jar JOB.json RESULT.json"

/** Runs `java -jar benchcore.jar JOB.json RESULT.json`: 0 done, 2 with a sentence on the standard error. */
fun main(arguments: Array<String>) {
    if (arguments.size != 2) end(USAGE)
    val versions =
        mapOf(
            "benchcore" to VERSION,
            "kotlin" to KotlinVersion.CURRENT.toString(),
            "java" to System.getProperty("java.runtime.version").orEmpty(),
        )
    val bench = Bench("jvm", Computer(), mapOf("onnx" to OrtRuntime), versions)
    val error =
        try {
            runJob(File(arguments[0]), File(arguments[1]), bench).error
        } catch (error: JobError) {
            error.message
        } catch (_: OutOfMemoryError) {
            TOO_LARGE
        }
    if (error != null) end(error)
}

private fun end(sentence: String): Nothing {
    // The charset of System.err is the locale's, and many a machine has none.
    PrintStream(FileOutputStream(FileDescriptor.err), true, "UTF-8").println(sentence)
    exitProcess(2)
}
