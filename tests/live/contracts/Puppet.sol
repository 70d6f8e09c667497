// SPDX-License-Identifier: MIT
pragma solidity 0.8.24;

/// Stands in for any contract and does what it was told to do when a function of it is called. For tests: everybody may tell it.
contract Puppet {
    struct Step {
        address target;
        bytes data;
    }

    struct Result {
        bool done;
        bytes answer;
    }

    mapping(bytes4 => Step[]) private steps;
    mapping(bytes4 => bytes) private answers;
    Result[] private made;

    /// On a call of `selector`: make these calls, whatever comes of them, and answer this.
    function tell(bytes4 selector, Step[] calldata wanted, bytes calldata answer) external {
        delete steps[selector];
        for (uint256 i = 0; i < wanted.length; i++) steps[selector].push(wanted[i]);
        answers[selector] = answer;
    }

    /// What came of the calls made so far.
    function results() external view returns (Result[] memory) {
        return made;
    }

    fallback() external {
        Step[] storage wanted = steps[msg.sig];
        for (uint256 i = 0; i < wanted.length; i++) {
            (bool done, bytes memory answer) = wanted[i].target.call(wanted[i].data);
            made.push(Result(done, answer));
        }
        bytes memory said = answers[msg.sig];
        assembly {
            return(add(said, 32), mload(said))
        }
    }
}
