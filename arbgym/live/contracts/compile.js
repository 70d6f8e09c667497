// Prints the compiled contracts of the Solidity files given, as JSON. Run where solc is installed (make chain puts it into .evm):
//   NODE_PATH=.evm/node_modules node arbgym/live/contracts/compile.js arbgym/live/contracts/ArbExecutor.sol
const crypto = require("crypto");
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const files = process.argv.slice(2);
const sources = Object.fromEntries(files.map((file) => [path.basename(file), { content: fs.readFileSync(file, "utf8") }]));
const settings = {
  evmVersion: "paris",
  viaIR: true, // 2 % less gas used for a cycle
  optimizer: { enabled: true, runs: 1000000 },
  // no hash of the metadata, so that the bytes depend on the code alone
  metadata: { bytecodeHash: "none", appendCBOR: false },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode"] } },
};
const output = JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources, settings })));
for (const error of output.errors || []) {
  console.error(error.formattedMessage);
  if (error.severity === "error") process.exit(1);
}
const found = {};
for (const [file, contracts] of Object.entries(output.contracts)) {
  for (const [name, contract] of Object.entries(contracts)) {
    const { bytecode, deployedBytecode } = contract.evm;
    if (!bytecode.object) continue;
    found[name] = {
      compiler: solc.version(),
      source_sha256: crypto.createHash("sha256").update(sources[file].content).digest("hex"),
      // bytes of the runtime code that the constructor fills with an immutable's word
      immutable_offsets: Object.values(deployedBytecode.immutableReferences || {}).map((places) => places.map((place) => place.start)),
      abi: contract.abi,
      bytecode: "0x" + bytecode.object,
      runtime_bytecode: "0x" + deployedBytecode.object,
    };
  }
}
process.stdout.write(JSON.stringify(found, null, 1) + "\n");
