package org.asrdeploy.benchcore

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File

/** Facts from the files of Linux, present or missing. */
class LinuxTest {
    @TempDir
    lateinit var root: File

    private fun write(
        path: String,
        text: String,
    ) = File(root, path).also { it.parentFile.mkdirs() }.writeText(text)

    @Test
    fun `everything that is there is read`() {
        write("proc/cpuinfo", "processor : 0\nmodel name\t: A: fast one\nflags\t\t: sse avx2 avx512_vnni\n\nprocessor : 1\n")
        write("proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n")
        write("proc/self/status", "Name:\tjava\nVmHWM:\t    100 kB\n")
        write("proc/loadavg", "0.50 0.20 0.10 1/100 42\n")
        write("sys/class/thermal/thermal_zone0/type", "cpu\n")
        write("sys/class/thermal/thermal_zone0/temp", "42500\n")
        write("sys/class/thermal/thermal_zone1/temp", "asleep\n")
        for ((cpu, frequency) in listOf(0 to "1000", 10 to "3000", 2 to "2000")) {
            write("sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_cur_freq", frequency)
        }
        val linux = Linux(root)
        assertEquals(listOf("A: fast one", listOf("avx2", "avx512_vnni"), true), listOf(linux.cpuName, linux.cpuFeatures, linux.int8Exact))
        assertEquals(listOf(2048L * 1024, 100L * 1024), listOf(linux.memoryBytes, linux.highWaterMark()))
        assertEquals(State(mapOf("thermal_zone0 cpu" to 42.5), listOf(1000, 2000, 3000), 0.5), linux.state())
    }

    @Test
    fun `what is not there is not known`() {
        val linux = Linux(root)
        assertEquals(State(), linux.state())
        assertEquals(listOf(null, null, 0L), listOf(linux.cpuName, linux.highWaterMark(), linux.memoryBytes))
    }

    @Test
    fun `this computer says what it is`() {
        val facts = Computer().facts()
        assertTrue(facts.logicalCpus >= 1 && facts.model.isNotEmpty() && facts.abi.isNotEmpty() && facts.kind == "host")
    }
}
