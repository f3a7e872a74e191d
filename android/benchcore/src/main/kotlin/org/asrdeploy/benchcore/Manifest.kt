package org.asrdeploy.benchcore

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.Json
import java.io.File

/** One file of an artifact. */
@Serializable
data class ModelFile(
    val name: String,
    val bytes: Long,
    val sha256: String,
) {
    init {
        requireDigest(sha256)
    }
}

/**
 * What of an artifact's manifest a runner uses; a manifest tells more.
 *
 * @property files the first is the one that an engine opens.
 * @property labels label 0 is the blank.
 * @property sampleRate samples per second.
 * @property minimumSamples shorter waveforms have no frame.
 * @property maximumSamples longer waveforms are refused; null: no bound.
 */
@Serializable
data class Manifest(
    val version: Int = 1,
    val format: String,
    val files: List<ModelFile>,
    val labels: List<String>,
    @SerialName("sample_rate") val sampleRate: Int,
    @SerialName("minimum_samples") val minimumSamples: Int,
    @SerialName("maximum_samples") val maximumSamples: Int? = null,
) {
    init {
        require(version == 1) { "version $version is unknown" }
        require(files.isNotEmpty()) { "it names no file" }
        require(labels.size >= 2) { "it has fewer than 2 labels" }
        labels.forEach(::requireText)
        require(sampleRate > 0 && minimumSamples > 0) { "its sample rate and its minimum of samples are positive" }
    }
}

/**
 * An artifact whose files were compared with its manifest.
 *
 * @property model the file that an engine opens.
 */
data class Artifact(
    val manifest: Manifest,
    val model: File,
) {
    /** Throws [JobError] where the model takes no waveform of so many samples. */
    fun checkLength(samples: Int) {
        val (least, most) = manifest.minimumSamples to manifest.maximumSamples
        if (samples < least) throw JobError("The audio has $samples samples; the model needs at least $least: use a longer recording.")
        if (most != null && samples > most) {
            throw JobError("The audio has $samples samples; the artifact takes at most $most: cut it, or export for longer ones.")
        }
    }
}

private const val LARGEST_MANIFEST_BYTES = 16L shl 20
private val tolerant = Json { ignoreUnknownKeys = true }

/**
 * Opens an artifact whose files, the manifest too, lie in one folder under their sha256.
 *
 * @throws JobError a file is missing, changed, or not of this version.
 */
fun openArtifact(
    files: File,
    digest: String,
): Artifact {
    val bytes = about("The artifact's manifest") { storedBytes(files, digest, LARGEST_MANIFEST_BYTES) }
    val manifest =
        parsing("${File(files, digest)} is not a manifest of this version") {
            tolerant.decodeFromString(Manifest.serializer(), text(bytes))
        }
    for (each in manifest.files) {
        val file = File(files, each.sha256)
        if (!file.isFile) throw JobError("The artifact's file ${each.name} (${each.sha256}) is not in $files; send it again.")
        if (file.length() != each.bytes || reading(file) { sha256(file) } != each.sha256) {
            throw JobError("The artifact's file ${each.name} does not fit its sha256: $file was changed or cut; send it again.")
        }
    }
    return Artifact(manifest, File(files, manifest.files.first().sha256))
}
