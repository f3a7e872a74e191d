package org.asrdeploy.bench

import org.asrdeploy.benchcore.State
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertSame
import org.junit.jupiter.api.Test

class AndroidDeviceTest {
    @Test
    fun `an emulator is told from a phone`() {
        assertEquals("emulator", kindOf("ranchu", "google/sdk_gphone64_x86_64/emu64xa:14/UE1A/1:userdebug/dev-keys"))
        assertEquals("emulator", kindOf("goldfish", "Android/sdk_phone/generic:8.0.0/OSR1/1:userdebug/test-keys"))
        assertEquals("emulator", kindOf("cutf_cvm", "generic/aosp_cf_x86_64_phone/vsoc_x86_64:14/AP1A/1:userdebug/test-keys"))
        assertEquals("phone", kindOf("husky", "google/husky/husky:15/AP4A.250105.002/12701944:user/release-keys"))
        assertEquals("phone", kindOf("qcom", "samsung/dm3qxxx/dm3q:14/UP1A/1:user/release-keys"))
    }

    @Test
    fun `what the battery says goes into the state`() {
        val state = State(loadAverage = 1.5, screenOn = true, thermalStatus = 0)
        val expected = state.copy(batteryCelsius = 31.2, batteryPercent = 87.5, charging = true)
        assertEquals(expected, state.with(Battery(tenthsOfCelsius = 312, level = 175, scale = 200, plugged = 2)))
        assertEquals(false, state.with(Battery(312, 50, 100, 0)).charging)
    }

    @Test
    fun `what the battery does not say stays unknown`() {
        val state = State(loadAverage = 1.5)
        assertSame(state, state.with(null))
        assertEquals(state, state.with(Battery(null, null, null, null)))
        assertNull(state.with(Battery(300, 50, null, 1)).batteryPercent)
        assertNull(state.with(Battery(300, 50, 0, 1)).batteryPercent)
    }
}
