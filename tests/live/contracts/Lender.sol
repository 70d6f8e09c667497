// SPDX-License-Identifier: MIT
pragma solidity 0.8.24;

interface IToken {
    function balanceOf(address holder) external view returns (uint256);
    function transfer(address to, uint256 amount) external returns (bool);
    function transferFrom(address from, address to, uint256 amount) external returns (bool);
}

interface IBorrower {
    function receiveFlashLoan(address[] calldata tokens, uint256[] calldata amounts, uint256[] calldata fees, bytes calldata data)
        external;
    function onMorphoFlashLoan(uint256 amount, bytes calldata data) external;
    function executeOperation(address token, uint256 amount, uint256 premium, address initiator, bytes calldata data)
        external
        returns (bool);
    function onFlashLoan(address initiator, address token, uint256 amount, uint256 fee, bytes calldata data)
        external
        returns (bytes32);
}

/// Lends its tokens as the Balancer vault, Morpho Blue, an Aave V3 pool and an ERC-3156 lender do. For tests.
contract Lender {
    uint256 private immutable feeBps;

    constructor(uint256 feeBps_) {
        feeBps = feeBps_;
    }

    /// Balancer: lends several tokens and wants them back, with the fee, in its balance.
    function flashLoan(address borrower, address[] calldata tokens, uint256[] calldata amounts, bytes calldata data) external {
        uint256 before = IToken(tokens[0]).balanceOf(address(this));
        uint256[] memory fees = new uint256[](1);
        fees[0] = _fee(amounts[0]);
        _send(tokens[0], borrower, amounts[0]);
        IBorrower(borrower).receiveFlashLoan(tokens, amounts, fees, data);
        require(IToken(tokens[0]).balanceOf(address(this)) >= before + fees[0], "BAL#602");
    }

    /// Morpho Blue: lends to its caller for nothing and takes it back.
    function flashLoan(address token, uint256 amount, bytes calldata data) external {
        _send(token, msg.sender, amount);
        IBorrower(msg.sender).onMorphoFlashLoan(amount, data);
        _take(token, msg.sender, amount);
    }

    /// Aave V3: lends to whom the caller names, who may refuse, and takes amount and premium.
    function flashLoanSimple(address borrower, address token, uint256 amount, bytes calldata data, uint16) external {
        _send(token, borrower, amount);
        require(IBorrower(borrower).executeOperation(token, amount, _fee(amount), msg.sender, data), "13");
        _take(token, borrower, amount + _fee(amount));
    }

    /// ERC-3156: the same, with an answer that must be right.
    function flashLoan(address borrower, address token, uint256 amount, bytes calldata data) external returns (bool) {
        _send(token, borrower, amount);
        bytes32 answer = IBorrower(borrower).onFlashLoan(msg.sender, token, amount, _fee(amount), data);
        require(answer == keccak256("ERC3156FlashBorrower.onFlashLoan"), "wrong answer");
        _take(token, borrower, amount + _fee(amount));
        return true;
    }

    /// Aave's percentMul: rounded half up.
    function _fee(uint256 amount) private view returns (uint256) {
        return (amount * feeBps + 5_000) / 10_000;
    }

    // Calls that do not mind a token without answers.
    function _send(address token, address to, uint256 amount) private {
        (bool done,) = token.call(abi.encodeCall(IToken.transfer, (to, amount)));
        require(done, "not sent");
    }

    function _take(address token, address from, uint256 amount) private {
        (bool done,) = token.call(abi.encodeCall(IToken.transferFrom, (from, address(this), amount)));
        require(done, "not taken");
    }
}
