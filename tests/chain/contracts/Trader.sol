// SPDX-License-Identifier: MIT
pragma solidity 0.8.24;

interface IToken {
    function transfer(address to, uint256 value) external returns (bool);
}

interface IPair {
    function swap(uint256 out0, uint256 out1, address to, bytes calldata data) external;
    function mint(address to) external returns (uint256);
}

interface IPool {
    function token0() external view returns (address);
    function token1() external view returns (address);
    function swap(address to, bool zeroForOne, int256 amount, uint160 limit, bytes calldata data) external returns (int256, int256);
    function mint(address owner, int24 lower, int24 upper, uint128 liquidity, bytes calldata data) external returns (uint256, uint256);
    function burn(int24 lower, int24 upper, uint128 liquidity) external returns (uint256, uint256);
}

struct PoolKey {
    address currency0;
    address currency1;
    uint24 fee;
    int24 tickSpacing;
    address hooks;
}

struct ModifyLiquidity {
    int24 tickLower;
    int24 tickUpper;
    int256 liquidityDelta;
    bytes32 salt;
}

struct Swap {
    bool zeroForOne;
    int256 amountSpecified;
    uint160 limit;
}

interface IManager {
    function unlock(bytes calldata data) external returns (bytes memory);
    function swap(PoolKey memory key, Swap memory params, bytes calldata data) external returns (int256);
    function modifyLiquidity(PoolKey memory key, ModifyLiquidity memory params, bytes calldata data) external returns (int256, int256);
    function sync(address currency) external;
    function settle() external payable returns (uint256);
    function take(address currency, address to, uint256 amount) external;
}

/// Trades and provides liquidity on pools of every kind with its own tokens. For tests: it trusts whoever calls.
contract Trader {
    function swapV2(address pair, address tokenIn, uint256 amountIn, uint256 out0, uint256 out1) external {
        IToken(tokenIn).transfer(pair, amountIn);
        IPair(pair).swap(out0, out1, address(this), "");
    }

    function mintV2(address pair, uint256 amount0, uint256 amount1) external {
        IToken(IPool(pair).token0()).transfer(pair, amount0);
        IToken(IPool(pair).token1()).transfer(pair, amount1);
        IPair(pair).mint(address(this));
    }

    function swapV3(address pool, bool zeroForOne, int256 amount, uint160 limit) external {
        IPool(pool).swap(address(this), zeroForOne, amount, limit, "");
    }

    function mintV3(address pool, int24 lower, int24 upper, uint128 liquidity) external {
        IPool(pool).mint(address(this), lower, upper, liquidity, "");
    }

    function burnV3(address pool, int24 lower, int24 upper, uint128 liquidity) external {
        IPool(pool).burn(lower, upper, liquidity);
    }

    function uniswapV3SwapCallback(int256 amount0, int256 amount1, bytes calldata) external {
        _pay(amount0, amount1);
    }

    function pancakeV3SwapCallback(int256 amount0, int256 amount1, bytes calldata) external {
        _pay(amount0, amount1);
    }

    function uniswapV3MintCallback(uint256 amount0, uint256 amount1, bytes calldata) external {
        _pay(int256(amount0), int256(amount1));
    }

    function pancakeV3MintCallback(uint256 amount0, uint256 amount1, bytes calldata) external {
        _pay(int256(amount0), int256(amount1));
    }

    function swapV4(address manager, PoolKey calldata key, Swap calldata params) external {
        IManager(manager).unlock(abi.encodeCall(this.swapUnlocked, (key, params)));
    }

    function modifyV4(address manager, PoolKey calldata key, ModifyLiquidity calldata params) external {
        IManager(manager).unlock(abi.encodeCall(this.modifyUnlocked, (key, params)));
    }

    function unlockCallback(bytes calldata data) external returns (bytes memory) {
        // the call that the unlock was for, made with the manager as its sender
        (bool done, bytes memory answer) = address(this).delegatecall(data);
        require(done, string(answer));
        return "";
    }

    function swapUnlocked(PoolKey calldata key, Swap calldata params) external {
        _settle(key, IManager(msg.sender).swap(key, params, ""));
    }

    function modifyUnlocked(PoolKey calldata key, ModifyLiquidity calldata params) external {
        (int256 delta,) = IManager(msg.sender).modifyLiquidity(key, params, "");
        _settle(key, delta);
    }

    function _pay(int256 amount0, int256 amount1) private {
        if (amount0 > 0) IToken(IPool(msg.sender).token0()).transfer(msg.sender, uint256(amount0));
        if (amount1 > 0) IToken(IPool(msg.sender).token1()).transfer(msg.sender, uint256(amount1));
    }

    function _settle(PoolKey calldata key, int256 delta) private {
        _settleOne(key.currency0, int256(int128(delta >> 128)));
        _settleOne(key.currency1, int256(int128(delta)));
    }

    function _settleOne(address currency, int256 delta) private {
        IManager manager = IManager(msg.sender);
        if (delta < 0) {
            manager.sync(currency);
            IToken(currency).transfer(msg.sender, uint256(-delta));
            manager.settle();
        } else if (delta > 0) {
            manager.take(currency, address(this), uint256(delta));
        }
    }
}

/// Creates PancakeSwap V3 pools as the deployer of that exchange does, which its package lacks.
contract PoolDeployer {
    struct Parameters {
        address factory;
        address token0;
        address token1;
        uint24 fee;
        int24 tickSpacing;
    }

    Parameters public parameters;

    event Created(address pool);

    function deploy(Parameters calldata given, bytes memory code) external {
        parameters = given;
        address pool;
        assembly {
            pool := create(0, add(code, 32), mload(code))
        }
        require(pool != address(0), "not created");
        emit Created(pool);
    }
}
