// SPDX-License-Identifier: MIT
pragma solidity 0.8.24;

struct Call3 {
    address target;
    bool allowFailure;
    bytes callData;
}

struct Result {
    bool success;
    bytes returnData;
}

/// Answers as Multicall3's aggregate3 does. For tests: its code is put at Multicall3's address.
contract Aggregate {
    function aggregate3(Call3[] calldata calls) external returns (Result[] memory results) {
        results = new Result[](calls.length);
        for (uint256 k = 0; k < calls.length; k++) {
            (bool success, bytes memory told) = calls[k].target.call(calls[k].callData);
            require(success || calls[k].allowFailure);
            results[k] = Result(success, told);
        }
    }
}
