// Transcribe with transformers.js: node transformers_js.mjs FOLDER DTYPE FILE...
// Each FILE holds float32 samples. Prints a JSON list of transcripts.
import { readFileSync } from 'node:fs';
import { env, pipeline } from '@huggingface/transformers';

env.allowRemoteModels = false;
env.localModelPath = '';
const [folder, dtype, ...files] = process.argv.slice(2);
const transcribe = await pipeline('automatic-speech-recognition', folder, { dtype });
const texts = [];
for (const file of files) {
    const bytes = readFileSync(file);
    const samples = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    texts.push((await transcribe(samples)).text);
}
console.log(JSON.stringify(texts));
