plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.kotlin.android) apply false
    alias(libs.plugins.kotlin.jvm) apply false
    alias(libs.plugins.kotlin.serialization) apply false
}

// The default build folder, "build", has the same name as the script in this folder.
layout.buildDirectory = layout.projectDirectory.dir("target/gradle")
