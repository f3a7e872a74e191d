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
 * The fields of an artifact's manifest that this runner uses.
 *
 * @property files files of the artifact; engines open the first one.
 * @property labels text of each label; label 0 is the blank.
 * @property sampleRate sample rate in Hz.
 * @property minimumSamples shortest waveform that gives one frame.
 * @property maximumSamples longest accepted waveform; null if unlimited.
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
        require(version == 1) { "version $version is not supported" }
        require(files.isNotEmpty()) { "it lists no file" }
        require(labels.size >= 2) { "it has fewer than 2 labels" }
        labels.forEach(::requireText)
        require(sampleRate > 0 && minimumSamples > 0) { "sample_rate and minimum_samples must be positive" }
    }
}

/**
 * An artifact whose files match its manifest.
 *
 * @property model model file that an engine opens.
 */
data class Artifact(
    val manifest: Manifest,
    val model: File,
) {
    /** Throws [JobError] if the artifact does not accept waveforms of this length. */
    fun checkLength(samples: Int) {
        val (least, most) = manifest.minimumSamples to manifest.maximumSamples
        if (samples < least) {
            throw JobError("The audio has $samples samples, but the model requires at least $least. Use a longer recording.")
        }
        if (most != null && samples > most) {
            throw JobError(
                "The audio has $samples samples, but the artifact accepts at most $most. " +
                    "Shorten the audio, or export the model with a larger --max-seconds.",
            )
        }
    }
}

private const val LARGEST_MANIFEST_BYTES = 16L shl 20
private val tolerant = Json { ignoreUnknownKeys = true }

/**
 * Opens an artifact whose files, including the manifest, are stored in one folder and named by their sha256.
 *
 * @throws JobError if a file is missing or changed, or the manifest is not valid.
 */
fun openArtifact(
    files: File,
    digest: String,
): Artifact {
    val bytes = about("The artifact's manifest") { storedBytes(files, digest, LARGEST_MANIFEST_BYTES) }
    val manifest =
        parsing("${File(files, digest)} is not a valid manifest") {
            tolerant.decodeFromString(Manifest.serializer(), text(bytes))
        }
    for (each in manifest.files) {
        val file = File(files, each.sha256)
        if (!file.isFile) throw JobError("The artifact's file ${each.name} (${each.sha256}) is missing from $files. Send it again.")
        if (file.length() != each.bytes || reading(file) { sha256(file) } != each.sha256) {
            throw JobError("The artifact's file ${each.name} does not match its sha256: $file was changed or cut short. Send it again.")
        }
    }
    return Artifact(manifest, File(files, manifest.files.first().sha256))
}
