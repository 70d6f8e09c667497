// Compiles the contracts of this folder into contracts.json. Run beside solc 0.8.24: npm install solc@0.8.24
const fs = require("fs");
const path = require("path");
const solc = require(require.resolve("solc", { paths: [process.cwd()] }));

const names = ["TestToken.sol", "Trader.sol"];
const sources = Object.fromEntries(names.map((name) => [name, { content: fs.readFileSync(path.join(__dirname, name), "utf8") }]));
const settings = {
  evmVersion: "paris",
  optimizer: { enabled: true, runs: 200 },
  metadata: { bytecodeHash: "none", appendCBOR: false },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
};
const output = JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources, settings })));
for (const error of output.errors || []) {
  console.error(error.formattedMessage);
  if (error.severity === "error") process.exit(1);
}
const found = {};
for (const contracts of Object.values(output.contracts)) {
  for (const [name, contract] of Object.entries(contracts)) {
    if (contract.evm.bytecode.object) found[name] = { abi: contract.abi, bytecode: "0x" + contract.evm.bytecode.object };
  }
}
fs.writeFileSync(path.join(__dirname, "contracts.json"), JSON.stringify(found, null, 1) + "\n");
