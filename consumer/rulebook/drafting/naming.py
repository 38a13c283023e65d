"""What the names in platforms' messages are about: English, pinyin and Chinese, cut together or misspelt. Performs no I/O."""

import re
import unicodedata
from difflib import get_close_matches
from functools import lru_cache

_WORDS = {
    "order": "order orders trade transaction trans txn tran session sess bill serial seq sequence record cdr sn oid dingdan dd ddh jiaoyi liushui lsh jylsh 订单 交易 流水 单",
    "id": "id ids no num number code uuid guid identifier ref reference bianhao bianma danhao hao bh bm sequenceno 编号 编码 号码 号 码",
    "plate": "plate lpn license licence lic chepai cph cphm hphm registration 车牌 号牌 牌照",
    "car": "car vehicle veh automobile che cheliang 车辆 车",
    "station": "station stn site location loc lot park parking depot facility hub yard zhan cz zd tcc zhandian changzhan dianzhan chongdianzhan tingchechang 充电站 站点 场站 电站 车场 停车场 站",
    "connector": "connector conn gun plug pile charger evse port device equipment equip terminal outlet socket stake chargepoint zhuang chongdianzhuang qiang 充电桩 桩 充电枪 枪 设备 终端 端口",
    "start": "start strat satrt started starting begin began beginning beg from kaishi ks qishi qidong 开始 起始 启动 起",
    "end": "end ended ending stop stopped finish finished complete completed completion over closed fin jieshu js wancheng tingzhi 结束 完成 停止 终止 截止 止",
    "time": "time times date datetime at ts timestamp when clock shijian sj riqi rq tm 时间 时刻 日期",
    "energy": "energy power electricity electric electrical elec quantity qty degree degrees consumption delivered kwh wh mwh dianliang dl cdl zdl dushu du 电量 电能 能量 度数 度",
    "money": "money fee fees price cost costs amount amt yuan fen cash jine je zje feiyong fy zfy income revenue balance deposit currency tax discount rate tariff paid payable rmb cny 金额 费用 费 价格 价 元 分 钱",
    "duration": "duration durations dur last lasted lasting elapsed shichang sc minutes minute mins min seconds secs second sec hours hour timespan timespent 时长 用时 历时 分钟 秒 小时",
    "charging": "charge charging charged chg cd chongdian 充电 充",
    "total": "total sum all zong zongji overall 总计 合计 总",
    "partial": "max maximum minimum peak avg average rated current voltage soc demand limit instant realtime loss lossy lost sharp valley flat jian feng ping gu gl discharged reactive remaining percent temperature 峰 谷 平 尖 最大 电流 电压 功率 剩余 损",
    "meter": "meter reading register biaoshu dianbiao 电表 表 示数 读数",
    "service": "service sevice fuwu 服务",
    "status": "status state zhuangtai zt 状态",
    "kind": "type kind category leixing 类型 类别",
    "label": "name names reason mingcheng mc desc description text address addr title remark note color colour yanse province city area 名称 地址 颜色 备注 省",
    "other": "pay payment settle settlement update updated modified modify sync send sent receive received insert upload report reported refund expire user member customer owner driver card phone mobile tel account merchant operator coupon trace parent invoice company tenant app client channel page version sign token log batch team brand vin zhifu fukuan gengxin yonghu 支付 付款 结算 更新 用户 会员 客户 卡 手机 发票 商户 运营商",
    "message": "message msg push pushed notify notification request req tuisong 推送 消息 请求",
    "event": "event events evt action cmd command 事件",
    "create": "create created creation gmt generated chuangjian 创建 生成 下单",
    "leave": "leave left leaving exit unplug unplugged parked idle occupancy plugout lichang 离场 出场 拔枪 占位",
}
_CONCEPTS = {word: concept for concept, words in _WORDS.items() for word in words.split()}
_LONGEST = max(map(len, _CONCEPTS))
_SHORTEST_CLOSE = 5
_LONG_WORDS = [word for word in _CONCEPTS if len(word) >= _SHORTEST_CLOSE and word.isascii()]

_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\W_]+")


@lru_cache(maxsize=4096)
def concepts_of(name: str) -> frozenset[str]:
    """What a name is about: `chargeEndTm`: charging, end, time."""
    found: set[str] = set()
    for part in words_of(name):
        found |= _of_word(part)
    return frozenset(found)


@lru_cache(maxsize=4096)
def words_of(name: str) -> tuple[str, ...]:
    """Its words in small letters, as far as its spelling tells them apart."""
    plain = unicodedata.normalize("NFKC", name[:100])
    return tuple(part.lower() for part in _BORDER.split(plain) if part)


def _of_word(word: str) -> set[str]:
    word = re.sub(r"\d+$", "", word) or word
    if word in _CONCEPTS:
        return {_CONCEPTS[word]}
    pieces = _cut(word)
    if pieces is not None:
        return {_CONCEPTS[piece] for piece in pieces}
    if not word.isascii():
        return {_CONCEPTS[piece] for piece in _pieces_in(word)}
    close = get_close_matches(word, _LONG_WORDS, n=1, cutoff=0.8) if len(word) >= _SHORTEST_CLOSE else []
    if close:
        return {_CONCEPTS[close[0]]}
    return _of_half(word)


def _cut(word: str) -> list[str] | None:
    """Into as few known words as it consists of: `endtime`, `dingdanhao`."""
    best: list[list[str] | None] = [[]]
    for end in range(1, len(word) + 1):
        options = [
            [*before, word[start:end]]
            for start in range(max(0, end - _LONGEST), end)
            if (before := best[start]) is not None and word[start:end] in _CONCEPTS
        ]
        best.append(min(options, key=len, default=None))
    whole = best[-1]
    return whole if whole is not None and len(word) > len(whole) else None


def _pieces_in(word: str) -> list[str]:
    """Those of a Chinese name, the longest first, whatever stands between them."""
    found: list[str] = []
    position = 0
    while position < len(word):
        length = next(
            (size for size in range(_LONGEST, 0, -1) if word[position : position + size] in _CONCEPTS), 0
        )
        if length:
            found.append(word[position : position + length])
        position += length or 1
    return found


def _of_half(word: str) -> set[str]:
    """A known word at one of its ends, the rest close to another: `strattime`, `plateNumer`."""
    for size in range(len(word) - 2, 2, -1):
        for known, rest in ((word[:size], word[size:]), (word[-size:], word[:-size])):
            if known in _CONCEPTS and len(known) >= 4:
                close = get_close_matches(rest, _LONG_WORDS, n=1, cutoff=0.75) if len(rest) >= 4 else []
                return {_CONCEPTS[known], *({_CONCEPTS[close[0]]} if close else ())}
    return set()
