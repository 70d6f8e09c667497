// SPDX-License-Identifier: MIT
pragma solidity 0.8.24;

interface IToken {
    function balanceOf(address holder) external view returns (uint256);
    function transfer(address to, uint256 amount) external returns (bool);
    function approve(address spender, uint256 amount) external returns (bool);
}

interface IPairV2 {
    function getReserves() external view returns (uint112 reserve0, uint112 reserve1, uint32 time);
    function swap(uint256 out0, uint256 out1, address to, bytes calldata data) external;
}

interface IPoolV3 {
    function swap(address to, bool zeroForOne, int256 amount, uint160 limit, bytes calldata data)
        external
        returns (int256 amount0, int256 amount1);
}

interface IBalancerVault {
    function flashLoan(address to, address[] calldata tokens, uint256[] calldata amounts, bytes calldata data) external;
}

interface IMorpho {
    function flashLoan(address token, uint256 amount, bytes calldata data) external;
}

interface IAavePool {
    function flashLoanSimple(address to, address token, uint256 amount, bytes calldata data, uint16 referral) external;
}

interface IERC3156Lender {
    function flashLoan(address to, address token, uint256 amount, bytes calldata data) external returns (bool);
}

/// Where the quote token comes from. FlashSwap: the first leg's own pool hands out its output before it is paid.
enum Funding {
    FlashSwap,
    Balancer,
    Morpho,
    Aave,
    Erc3156
}

enum Kind {
    V2,
    V3
}

/// One exact-input swap.
struct Leg {
    address pool;
    address tokenIn;
    Kind kind;
    bool zeroForOne;
    uint24 feePpm; // V2: of the input; a V3 pool knows its own
}

/// A cycle: the first leg's tokenIn is the quote token, which the last leg returns.
struct Route {
    Funding funding;
    address lender; // not used by FlashSwap
    uint256 amountIn; // quote token, raw
    uint256 minimumProfit; // quote token, raw
    uint256 lastBlock;
    Leg[] legs;
}

/// Borrows, trades a cycle of V2 and V3 pools, repays, and hands the gain to its owner, in one call or not at all.
///
/// It holds no token between calls, pays nobody but the route's pools and lender, and trusts none of them further than this:
/// the quote token held at the end must exceed what was held at the start by the profit asked for.
contract ArbExecutor {
    error NotOwner();
    error Reentered();
    error TooLate(uint256 blockNumber, uint256 lastBlock);
    error TooFewLegs(uint256 legs);
    error NotExpected(address caller);
    error NotCalledBack(address callee);
    error TooMuchAsked(uint256 asked, uint256 allowed);
    error NotProfitable(uint256 gain, uint256 wanted);
    error TokenRefused(address token);
    error NotSent();

    /// The callback that a pool or lender makes.
    enum Callback {
        V2,
        V3,
        Balancer,
        Morpho,
        Aave,
        Erc3156
    }

    // Idle is not zero: a slot that stays non-zero is cheaper to write.
    bytes32 private constant IDLE = bytes32(uint256(1));
    bytes32 private constant BUSY = bytes32(uint256(2));
    uint160 private constant LOWEST_LIMIT = 4295128740; // a V3 pool's lowest sqrt price + 1
    uint160 private constant HIGHEST_LIMIT = 1461446703485210103287273052203988822378723970341; // its highest - 1
    bytes32 private constant ERC3156_DONE = keccak256("ERC3156FlashBorrower.onFlashLoan");

    address public immutable owner;

    /// The one callback that may come now: a hash of its kind, of who may make it and of the bytes that it must bring. Else IDLE
    /// between calls, and BUSY within one.
    bytes32 private expected;

    constructor() {
        owner = msg.sender;
        expected = IDLE;
    }

    // Defence: nobody but the owner starts anything, and nobody, not even the owner, starts anything within a call.
    modifier onlyOwnerWhenIdle() {
        if (msg.sender != owner) revert NotOwner();
        if (expected != IDLE) revert Reentered();
        _;
    }

    /// Trades the cycle and returns the gain, quote token, raw; reverts if it is below the minimum or the block too late.
    function execute(Route calldata route) external onlyOwnerWhenIdle returns (uint256 gain) {
        if (block.number > route.lastBlock) revert TooLate(block.number, route.lastBlock);
        if (route.legs.length < 2) revert TooFewLegs(route.legs.length);
        address quote = route.legs[0].tokenIn;
        // Defence: what was here before is no gain, and no loss is paid out of it.
        uint256 before = IToken(quote).balanceOf(address(this));
        if (route.funding == Funding.FlashSwap) _flashSwap(route);
        else _flashLoan(route, quote);
        uint256 held = IToken(quote).balanceOf(address(this));
        if (held < before + route.minimumProfit) revert NotProfitable(held > before ? held - before : 0, route.minimumProfit);
        gain = held - before;
        // Defence: nothing stays here. A V3 pool that ran out of liquidity leaves some of a later leg's input.
        _send(quote, owner, held);
        for (uint256 i = 1; i < route.legs.length; i++) _sendAll(route.legs[i].tokenIn);
        expected = IDLE;
    }

    /// Hands the whole balance of a token, or of the chain's own coin (address 0), to the owner.
    function sweep(address token) external onlyOwnerWhenIdle {
        if (token != address(0)) return _sendAll(token);
        (bool done,) = owner.call{value: address(this).balance}("");
        if (!done) revert NotSent();
    }

    // ------------------------------------------------------------------------------------------------------- borrowing
    function _flashSwap(Route calldata route) private {
        Leg calldata first = route.legs[0];
        if (first.kind == Kind.V3) {
            _swapV3(first, route.amountIn, _recipient(route, 0), msg.data[4:]);
        } else {
            // V2 calls its recipient back, so the output comes here
            _expect(Callback.V2, first.pool, keccak256(msg.data[4:]));
            _swapV2(first, _outputV2(first, route.amountIn), address(this), msg.data[4:]);
            _requireCalledBack(first.pool);
        }
    }

    function _flashLoan(Route calldata route, address quote) private {
        address lender = route.lender;
        uint256 amount = route.amountIn;
        // what is lent for comes back with the callback: the call's own bytes, without the selector
        bytes calldata data = msg.data[4:];
        bytes32 dataHash = keccak256(data);
        if (route.funding == Funding.Balancer) {
            address[] memory tokens = new address[](1);
            uint256[] memory amounts = new uint256[](1);
            (tokens[0], amounts[0]) = (quote, amount);
            _expect(Callback.Balancer, lender, dataHash);
            IBalancerVault(lender).flashLoan(address(this), tokens, amounts, data);
            return _requireCalledBack(lender);
        }
        if (route.funding == Funding.Morpho) {
            _expect(Callback.Morpho, lender, dataHash);
            IMorpho(lender).flashLoan(quote, amount, data);
        } else if (route.funding == Funding.Aave) {
            _expect(Callback.Aave, lender, dataHash);
            IAavePool(lender).flashLoanSimple(address(this), quote, amount, data, 0);
        } else {
            _expect(Callback.Erc3156, lender, dataHash);
            IERC3156Lender(lender).flashLoan(address(this), quote, amount, data);
        }
        _requireCalledBack(lender);
        // Defence: a lender that did not take all that it was allowed may not take it later.
        _approve(quote, lender, 0);
    }

    // ------------------------------------------------------------------------------------------------------- callbacks
    function uniswapV2Call(address, uint256 amount0, uint256 amount1, bytes calldata data) external {
        _onV2(amount0 + amount1, data);
    }

    function pancakeCall(address, uint256 amount0, uint256 amount1, bytes calldata data) external {
        _onV2(amount0 + amount1, data);
    }

    function uniswapV3SwapCallback(int256 amount0, int256 amount1, bytes calldata data) external {
        _onV3(amount0, amount1, data);
    }

    function pancakeV3SwapCallback(int256 amount0, int256 amount1, bytes calldata data) external {
        _onV3(amount0, amount1, data);
    }

    function receiveFlashLoan(address[] calldata, uint256[] calldata amounts, uint256[] calldata fees, bytes calldata data)
        external
    {
        _accept(Callback.Balancer, data);
        address quote = _onLoan(data, amounts[0], amounts[0] + fees[0]);
        _send(quote, msg.sender, amounts[0] + fees[0]);
    }

    function onMorphoFlashLoan(uint256 amount, bytes calldata data) external {
        _accept(Callback.Morpho, data);
        _approve(_onLoan(data, amount, amount), msg.sender, amount);
    }

    function executeOperation(address, uint256 amount, uint256 premium, address initiator, bytes calldata data)
        external
        returns (bool)
    {
        // Defence: Aave and ERC-3156 lenders call back whomever a borrower names, so the borrower must have been this contract.
        if (initiator != address(this)) revert NotExpected(initiator);
        _accept(Callback.Aave, data);
        _approve(_onLoan(data, amount, amount + premium), msg.sender, amount + premium);
        return true;
    }

    function onFlashLoan(address initiator, address, uint256 amount, uint256 fee, bytes calldata data)
        external
        returns (bytes32)
    {
        if (initiator != address(this)) revert NotExpected(initiator);
        _accept(Callback.Erc3156, data);
        _approve(_onLoan(data, amount, amount + fee), msg.sender, amount + fee);
        return ERC3156_DONE;
    }

    /// The first leg's V2 pool has sent its output and wants the quote token.
    function _onV2(uint256 received, bytes calldata data) private {
        _accept(Callback.V2, data);
        Route calldata route = _route(data);
        _deliver(route.legs[1], received);
        _trade(route, 1, received, route.amountIn);
        _send(route.legs[0].tokenIn, msg.sender, route.amountIn);
    }

    /// A V3 pool has sent its output and wants its input.
    function _onV3(int256 amount0, int256 amount1, bytes calldata data) private {
        _accept(Callback.V3, data);
        (uint256 owed, int256 sent) = amount0 > 0 ? (uint256(amount0), amount1) : (uint256(amount1), amount0);
        if (data.length == 64) {
            // a later leg: pay from what the leg before it brought
            (address token, uint256 allowed) = abi.decode(data, (address, uint256));
            // Defence: a pool gets no more than the leg's input, whatever it asks for.
            if (owed > allowed) revert TooMuchAsked(owed, allowed);
            _send(token, msg.sender, owed);
        } else {
            // the first leg of a flash swap: trade the other legs with its output, then pay
            Route calldata route = _route(data);
            _trade(route, 1, uint256(-sent), owed);
            _send(route.legs[0].tokenIn, msg.sender, owed);
        }
    }

    function _onLoan(bytes calldata data, uint256 amount, uint256 owed) private returns (address quote) {
        Route calldata route = _route(data);
        _deliver(route.legs[0], amount);
        _trade(route, 0, amount, owed);
        quote = route.legs[0].tokenIn;
    }

    // --------------------------------------------------------------------------------------------------------- trading
    /// Swaps along the legs from `from` on, whose input has been delivered; the last one's output must cover debt and profit.
    function _trade(Route calldata route, uint256 from, uint256 amount, uint256 owed) private {
        uint256 last = route.legs.length - 1;
        for (uint256 i = from; i <= last; i++) {
            Leg calldata leg = route.legs[i];
            bool isV2 = leg.kind == Kind.V2;
            amount = isV2 ? _outputV2(leg, amount) : _swapV3(leg, amount, _recipient(route, i), abi.encode(leg.tokenIn, amount));
            // Defence: said here already, so that a loss is told in numbers and never paid out of what was held before (and ahead
            // of a V2 pool's swap, the gas of which a refusal saves).
            if (i == last && amount < owed + route.minimumProfit) {
                revert NotProfitable(amount > owed ? amount - owed : 0, route.minimumProfit);
            }
            if (isV2) _swapV2(leg, amount, _recipient(route, i), msg.data[0:0]);
        }
    }

    /// A V2 pool takes its input before the call, straight from the leg before it; a V3 pool asks for it within.
    function _recipient(Route calldata route, uint256 leg) private view returns (address) {
        uint256 next = leg + 1;
        return next < route.legs.length && route.legs[next].kind == Kind.V2 ? route.legs[next].pool : address(this);
    }

    function _deliver(Leg calldata leg, uint256 amount) private {
        if (leg.kind == Kind.V2) _send(leg.tokenIn, leg.pool, amount);
    }

    /// The most that the pair hands out for this input, rounded down as the pair's own check allows.
    function _outputV2(Leg calldata leg, uint256 amountIn) private view returns (uint256) {
        (uint256 reserveIn, uint256 reserveOut,) = IPairV2(leg.pool).getReserves();
        if (!leg.zeroForOne) (reserveIn, reserveOut) = (reserveOut, reserveIn);
        uint256 afterFee = amountIn * (1_000_000 - leg.feePpm);
        return afterFee * reserveOut / (reserveIn * 1_000_000 + afterFee);
    }

    function _swapV2(Leg calldata leg, uint256 amountOut, address to, bytes calldata data) private {
        (uint256 out0, uint256 out1) = leg.zeroForOne ? (uint256(0), amountOut) : (amountOut, uint256(0));
        IPairV2(leg.pool).swap(out0, out1, to, data);
    }

    function _swapV3(Leg calldata leg, uint256 amountIn, address to, bytes memory data) private returns (uint256) {
        // Defence: a negative amount would ask for an exact output.
        if (amountIn > uint256(type(int256).max)) revert TooMuchAsked(amountIn, uint256(type(int256).max));
        _expect(Callback.V3, leg.pool, keccak256(data));
        (int256 amount0, int256 amount1) = IPoolV3(leg.pool).swap(
            to, leg.zeroForOne, int256(amountIn), leg.zeroForOne ? LOWEST_LIMIT : HIGHEST_LIMIT, data
        );
        _requireCalledBack(leg.pool);
        return uint256(-(leg.zeroForOne ? amount1 : amount0));
    }

    // -------------------------------------------------------------------------------------------------------- defences
    /// Only this callee may call back, once, in this way, with these bytes.
    function _expect(Callback callback, address callee, bytes32 dataHash) private {
        expected = keccak256(abi.encode(callback, callee, dataHash));
    }

    function _accept(Callback callback, bytes calldata data) private {
        if (expected != keccak256(abi.encode(callback, msg.sender, keccak256(data)))) revert NotExpected(msg.sender);
        expected = BUSY;
    }

    /// Without this an expectation would outlive the call that it was meant for.
    function _requireCalledBack(address callee) private view {
        if (expected != BUSY) revert NotCalledBack(callee);
    }

    /// The route in bytes that `_accept` has found to be the owner's own: the arguments of `execute`.
    function _route(bytes calldata data) private pure returns (Route calldata route) {
        assembly ("memory-safe") {
            route := add(data.offset, calldataload(data.offset))
        }
    }

    // ---------------------------------------------------------------------------------------------------------- tokens
    function _send(address token, address to, uint256 amount) private {
        _callToken(token, abi.encodeCall(IToken.transfer, (to, amount)));
    }

    function _sendAll(address token) private {
        uint256 held = IToken(token).balanceOf(address(this));
        if (held > 0) _send(token, owner, held);
    }

    function _approve(address token, address spender, uint256 amount) private {
        _callToken(token, abi.encodeCall(IToken.approve, (spender, amount)));
    }

    /// Some tokens answer nothing where ERC-20 says a bool; an address without code answers nothing too.
    function _callToken(address token, bytes memory data) private {
        (bool done, bytes memory answer) = token.call(data);
        if (!done || (answer.length == 0 ? token.code.length == 0 : !abi.decode(answer, (bool)))) revert TokenRefused(token);
    }
}
