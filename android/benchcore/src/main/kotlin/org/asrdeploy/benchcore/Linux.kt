package org.asrdeploy.benchcore

import java.io.File
import java.io.IOException

/** CPU features that affect the speed and the exactness of quantised inference. */
private val CPU_FEATURES =
    listOf("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve")

/** The device that a job runs on. */
interface Device {
    /** Returns facts that do not change while a job runs. */
    fun facts(): DeviceFacts

    /** Returns the state that may change while a job runs. */
    fun state(): State

    /** Returns the peak resident memory of this process in bytes; null if unknown. */
    fun highWaterMark(): Long?
}

/**
 * Facts and state from the files of Linux, on a computer or on Android. Android hides some files from apps; values that cannot be
 * read are null or empty.
 *
 * @param root folder that contains `proc` and `sys`.
 */
class Linux(
    private val root: File = File("/"),
) {
    private val cpu: Map<String, String> =
        lines("proc/cpuinfo")
            .mapNotNull { line -> line.split(":", limit = 2).takeIf { it.size == 2 && it[1].isNotBlank() } }
            .associate { (key, value) -> key.trim() to value.trim() }

    /** Name of the processor; usually null on Arm. */
    val cpuName: String? = cpu["model name"] ?: cpu["Hardware"]

    /** Features of the processor that affect quantised inference. */
    val cpuFeatures: List<String> =
        (cpu["flags"] ?: cpu["Features"]).orEmpty().split(" ").toSet().let { flags -> CPU_FEATURES.filter { it in flags } }

    /** Name of the architecture as in Linux. */
    val architecture: String = System.getProperty("os.arch").orEmpty().let { if (it == "amd64") "x86_64" else it }

    /** Whether 8-bit products are summed without saturation: always on Arm, on x86 with VNNI or AMX. */
    val int8Exact: Boolean = architecture in setOf("aarch64", "arm64") || cpuFeatures.any { "vnni" in it || it == "amx_int8" }

    /** Total memory of the system in bytes; 0 if unknown. */
    val memoryBytes: Long = kibibytes("proc/meminfo", "MemTotal:") ?: 0

    /** Returns the peak resident memory of this process in bytes; null if unknown. */
    fun highWaterMark(): Long? = kibibytes("proc/self/status", "VmHWM:")

    /** Returns temperatures, CPU frequencies and load average. */
    fun state(): State {
        val zones = children("sys/class/thermal", Regex("thermal_zone\\d+"))
        val cpus = children("sys/devices/system/cpu", Regex("cpu\\d+"))
        return State(
            celsius =
                zones
                    .mapNotNull { zone ->
                        val name = "${zone.name} ${read(File(zone, "type")).orEmpty()}".trim()
                        read(File(zone, "temp"))?.toDoubleOrNull()?.takeIf { it.isFinite() }?.let { name to it / 1000 }
                    }.toMap(),
            kilohertz = cpus.mapNotNull { read(File(it, "cpufreq/scaling_cur_freq"))?.toLongOrNull() },
            loadAverage = read(File(root, "proc/loadavg"))?.substringBefore(" ")?.toDoubleOrNull(),
        )
    }

    private fun children(
        folder: String,
        name: Regex,
    ): List<File> {
        val found = File(root, folder).listFiles { file -> name.matches(file.name) }.orEmpty()
        return found.sortedWith(compareBy({ it.name.length }, { it.name }))
    }

    private fun kibibytes(
        path: String,
        key: String,
    ): Long? =
        lines(path)
            .firstOrNull { it.startsWith(key) }
            ?.filter { it.isDigit() }
            ?.toLongOrNull()
            ?.times(1024)

    private fun lines(path: String): List<String> = read(File(root, path)).orEmpty().lines()

    /** Returns the text of a file, or null on errors, which sleeping sensors return. */
    private fun read(file: File): String? =
        try {
            file.readText().trim()
        } catch (_: IOException) {
            null
        }
}

/** A computer with a Java runtime. */
class Computer(
    private val linux: Linux = Linux(),
) : Device {
    override fun facts(): DeviceFacts {
        val name = linux.cpuName ?: linux.architecture
        val system = listOf("os.name", "os.version", "os.arch").mapNotNull(System::getProperty).joinToString("-")
        return DeviceFacts(
            kind = "host",
            model = name,
            cpu = name,
            cpuFeatures = linux.cpuFeatures,
            int8Exact = linux.int8Exact,
            abi = linux.architecture,
            system = system,
            logicalCpus = java.lang.Runtime.getRuntime().availableProcessors(),
            memoryBytes = linux.memoryBytes,
        )
    }

    override fun state(): State = linux.state()

    override fun highWaterMark(): Long? = linux.highWaterMark()
}
