package org.asrdeploy.bench

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import org.asrdeploy.benchcore.Device
import org.asrdeploy.benchcore.DeviceFacts
import org.asrdeploy.benchcore.Linux
import org.asrdeploy.benchcore.State

/** Marks functions that call APIs newer than the oldest supported Android. Callers must check the version of the device first. */
@Target(AnnotationTarget.FUNCTION)
@Retention(AnnotationRetention.BINARY)
annotation class NewerAndroid

/** An Android device, described by Android's services and by Linux files. Android hides most sensor files from apps. */
class AndroidDevice(
    private val context: Context,
    private val linux: Linux = Linux(),
) : Device {
    private val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager

    override fun facts(): DeviceFacts {
        val chip = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) chip() else null
        return DeviceFacts(
            kind = kindOf(Build.HARDWARE, Build.FINGERPRINT),
            model = "${Build.MANUFACTURER} ${Build.MODEL} (${chip ?: Build.BOARD})",
            cpu = chip ?: linux.cpuName ?: Build.HARDWARE,
            cpuFeatures = linux.cpuFeatures,
            int8Exact = linux.int8Exact,
            abi = Build.SUPPORTED_ABIS.first(),
            system = "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT}), ${Build.FINGERPRINT}",
            logicalCpus = java.lang.Runtime.getRuntime().availableProcessors(),
            memoryBytes = memoryBytes(),
        )
    }

    override fun state(): State {
        val throttling = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) thermalStatus() else null
        return linux.state().copy(screenOn = power.isInteractive, thermalStatus = throttling).with(battery())
    }

    override fun highWaterMark(): Long? = linux.highWaterMark()

    @NewerAndroid
    private fun chip(): String? = Build.SOC_MODEL.takeIf { it != Build.UNKNOWN }

    @NewerAndroid
    private fun thermalStatus(): Int = power.currentThermalStatus

    private fun memoryBytes(): Long {
        val memory = ActivityManager.MemoryInfo()
        (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(memory)
        return memory.totalMem
    }

    /** Returns the last state of the battery. Its broadcast is sticky, so that registering returns it at once. */
    private fun battery(): Battery? {
        val said = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED)) ?: return null
        return Battery(
            tenthsOfCelsius = said.number(BatteryManager.EXTRA_TEMPERATURE),
            level = said.number(BatteryManager.EXTRA_LEVEL),
            scale = said.number(BatteryManager.EXTRA_SCALE),
            plugged = said.number(BatteryManager.EXTRA_PLUGGED),
        )
    }

    private fun Intent.number(name: String): Int? = if (hasExtra(name)) getIntExtra(name, 0) else null
}

/**
 * Report of Android's battery service; values that it does not report are null.
 *
 * @property level charge in units of 1/[scale].
 * @property plugged 0 if the device runs on its battery.
 */
class Battery(
    val tenthsOfCelsius: Int?,
    val level: Int?,
    val scale: Int?,
    val plugged: Int?,
)

/** Returns a copy of the state that includes the state of the battery. */
fun State.with(battery: Battery?): State {
    if (battery == null) return this
    val (level, scale) = battery.level to battery.scale
    return copy(
        batteryCelsius = battery.tenthsOfCelsius?.let { it / 10.0 },
        batteryPercent = if (level == null || scale == null || scale <= 0) null else 100.0 * level / scale,
        charging = battery.plugged?.let { it != 0 },
    )
}

/** Returns "emulator" or "phone", judged by two constants of the Android build. */
fun kindOf(
    hardware: String,
    fingerprint: String,
): String {
    val emulated = hardware in setOf("ranchu", "goldfish") || fingerprint.startsWith("generic") || "sdk_gphone" in fingerprint
    return if (emulated) "emulator" else "phone"
}
