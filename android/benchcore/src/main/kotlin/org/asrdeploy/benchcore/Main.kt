package org.asrdeploy.benchcore

import java.io.File
import java.io.FileDescriptor
import java.io.FileOutputStream
import java.io.PrintStream
import kotlin.system.exitProcess

private const val USAGE = "usage: java -jar benchcore.jar JOB.json RESULT.json"

/** Runs `java -jar benchcore.jar JOB.json RESULT.json`; exits with code 0, or with 2 after printing an error. */
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
    // System.err uses the charset of the locale, which is often not set.
    PrintStream(FileOutputStream(FileDescriptor.err), true, "UTF-8").println(sentence)
    exitProcess(2)
}
