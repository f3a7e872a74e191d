plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.kotlin.android) apply false
    alias(libs.plugins.kotlin.jvm) apply false
    alias(libs.plugins.kotlin.serialization) apply false
}

// The usual folder has the name of the script beside this file.
layout.buildDirectory = layout.projectDirectory.dir("target/gradle")
