"""What the labeling page shows for the lexicon's fields and values, in English and in Chinese.

Stored values are the lexicon's English ones in either language; these words are only shown. Chinese words
are looked up by ``<organ>_<field>`` first, then by ``<field>``, then among those that hold everywhere.

Chinese terms follow those that reports use: the Chinese wording of the ACR BI-RADS, TI-RADS and O-RADS terms,
and of the guidelines on which the lexicon's other vocabularies rest.
"""

from __future__ import annotations

from typing import Literal, get_args

from sonoloop.platform.lexicon import NOT_ASSESSED, Organ
from sonoloop.platform.lexicon.words_zh import ORGAN_WORDS_ZH

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

ESCAPE_WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "cannot-judge": "cannot judge",
        "bad-image": "bad image",
        "patient-data-visible": "patient data visible",
    },
    "zh": {"cannot-judge": "无法判断", "bad-image": "图像质量差", "patient-data-visible": "可见患者信息"},
}
PHRASES: dict[Language, dict[str, str]] = {
    "en": {
        "case": "Case $case_id, scanner: $scanner",
        "unsure": "? = the draft is unsure",
        "write": "Write the {title} here",
    },
    "zh": {
        "case": "病例 $case_id，设备：$scanner",
        "unsure": "? = 草稿把握不大",
        "write": "在此填写{title}",
    },
}
_TITLES: dict[str, str] = {
    "bi_rads": "BI-RADS",
    "o_rads": "O-RADS",
    "lv_size": "LV size",
    "lv_systolic_function": "LV function",
    "la_size": "LA size",
    "rv_size": "RV size",
    "ra_size": "RA size",
    "regional_wall_motion": "Wall motion",
    "aortic_regurgitation": "Aortic regurg.",
    "mitral_regurgitation": "Mitral regurg.",
    "tricuspid_regurgitation": "Tricuspid regurg.",
    "pericardial_effusion": "Pericard. effusion",
    "laterality": "Side",
    "clock_position": "O'clock",
    "nipple_distance_mm": "From nipple, mm",
    "size_mm": "Size, mm",
    "escape": "No answer",
}
TITLES_ZH: dict[str, str] = {
    "escape": "无法作答",
    "findings": "超声所见",
    "impression": "超声提示",
    "organ": "器官",
    "lesion": "病灶",
    "shape": "形状",
    "orientation": "方位",
    "margin": "边缘",
    "liver_margin": "边界",
    "kidney_margin": "边界",
    "echo_pattern": "内部回声",
    "echogenicity": "回声",
    "vessel_echogenicity": "斑块回声",
    "posterior_features": "后方回声",
    "calcifications": "钙化",
    "bi_rads": "BI-RADS",
    "laterality": "侧别",
    "quadrant": "象限",
    "clock_position": "钟点",
    "nipple_distance_mm": "距乳头，mm",
    "size_mm": "最大径，mm",
    "composition": "成分",
    "echogenic_foci": "强回声灶",
    "lobe": "叶",
    "third": "部位",
    "parenchyma": "肝实质",
    "segment": "肝段",
    "vessel_segment": "血管节段",
    "collecting_system": "集合系统",
    "pole": "部位",
    "endometrium": "子宫内膜",
    "myometrium": "子宫肌层",
    "ascites": "腹水",
    "peritoneal_nodules": "腹膜结节",
    "lesion_kind": "病灶类型",
    "contour": "轮廓",
    "fluid": "囊液",
    "acoustic_shadowing": "声影",
    "papillary_projections": "乳头状突起",
    "color_score": "血流评分",
    "o_rads": "O-RADS",
    "site": "部位",
    "lv_size": "左室大小",
    "lv_systolic_function": "左室收缩功能",
    "regional_wall_motion": "室壁运动",
    "la_size": "左房大小",
    "rv_size": "右室大小",
    "ra_size": "右房大小",
    "aortic_stenosis": "主动脉瓣狭窄",
    "aortic_regurgitation": "主动脉瓣反流",
    "mitral_stenosis": "二尖瓣狭窄",
    "mitral_regurgitation": "二尖瓣反流",
    "tricuspid_regurgitation": "三尖瓣反流",
    "pericardial_effusion": "心包积液",
    "mass_kind": "占位性质",
    "attachment": "附着方式",
    "mobility": "活动度",
    "intima_media": "内中膜",
    "stenosis": "狭窄程度",
    "surface": "斑块表面",
}
EVERYWHERE_ZH: dict[str, str] = {
    NOT_ASSESSED: "未评估",
    "present": "有",
    "absent": "无",
    "none": "无",
    "normal": "正常",
    "mild": "轻度",
    "moderate": "中度",
    "severe": "重度",
    "left": "左侧",
    "right": "右侧",
    "anechoic": "无回声",
    "hypoechoic": "低回声",
    "isoechoic": "等回声",
    "hyperechoic": "高回声",
    "enhancement": "回声增强",
    "shadowing": "声影",
    "well-defined": "清楚",
    "ill-defined": "不清楚",
    "smooth": "光滑",
    "irregular": "不规则",
}
_CHAMBER_ZH = {
    "mildly enlarged": "轻度增大",
    "moderately enlarged": "中度增大",
    "severely enlarged": "重度增大",
}
_ENLARGED_ZH = {"enlarged": "增大"}
_REGURGITATION_ZH = {"none or trace": "无或微量"}
WORDS_ZH: dict[str, dict[str, str]] = {
    "organ": {str(organ): name for organ, name in ORGAN_WORDS_ZH.items()},
    "breast_shape": {"oval": "椭圆形", "round": "圆形", "irregular": "不规则形"},
    "orientation": {"parallel": "平行", "not parallel": "不平行"},
    "breast_margin": {
        "circumscribed": "光整",
        "indistinct": "模糊",
        "angular": "成角",
        "microlobulated": "微小分叶",
        "spiculated": "毛刺",
    },
    "echo_pattern": {"complex cystic and solid": "囊实复合回声", "heterogeneous": "不均匀回声"},
    "breast_posterior_features": {"none": "无改变", "combined pattern": "混合性改变"},
    "liver_posterior_features": {"none": "无改变"},
    "kidney_posterior_features": {"none": "无改变"},
    "calcifications": {
        "absent": "无钙化",
        "in a mass": "肿块内",
        "outside of a mass": "肿块外",
        "intraductal": "导管内",
    },
    "bi_rads": {
        "0": "0 类",
        "2": "2 类",
        "3": "3 类",
        "4A": "4A 类",
        "4B": "4B 类",
        "4C": "4C 类",
        "5": "5 类",
        "6": "6 类",
    },
    "quadrant": {
        "upper outer": "外上象限",
        "upper inner": "内上象限",
        "lower outer": "外下象限",
        "lower inner": "内下象限",
        "central": "中央区",
        "axillary tail": "腋尾部",
    },
    "clock_position": {str(hour): f"{hour} 点" for hour in range(1, 13)},
    "composition": {
        "cystic or almost completely cystic": "囊性或几乎完全囊性",
        "spongiform": "海绵状",
        "mixed cystic and solid": "囊实混合性",
        "solid or almost completely solid": "实性或几乎完全实性",
    },
    "thyroid_echogenicity": {"hyperechoic or isoechoic": "高回声或等回声", "very hypoechoic": "极低回声"},
    "thyroid_shape": {"wider-than-tall": "宽大于高", "taller-than-wide": "高大于宽"},
    "thyroid_margin": {
        "ill-defined": "模糊",
        "lobulated or irregular": "分叶状或不规则",
        "extra-thyroidal extension": "甲状腺外侵犯",
    },
    "echogenic_foci": {
        "none or large comet-tail artifacts": "无或大彗星尾伪像",
        "macrocalcifications": "粗大钙化",
        "peripheral (rim) calcifications": "周边（环状）钙化",
        "punctate echogenic foci": "点状强回声",
    },
    "lobe": {"right lobe": "右叶", "left lobe": "左叶", "isthmus": "峡部"},
    "third": {"upper": "上部", "middle": "中部", "lower": "下部"},
    "parenchyma": {"increased echogenicity": "回声增强", "coarse": "回声增粗"},
    "liver_segment": {
        "I": "Ⅰ 段",
        "II": "Ⅱ 段",
        "III": "Ⅲ 段",
        "IV": "Ⅳ 段",
        "IVa": "Ⅳa 段",
        "IVb": "Ⅳb 段",
        "V": "Ⅴ 段",
        "VI": "Ⅵ 段",
        "VII": "Ⅶ 段",
        "VIII": "Ⅷ 段",
    },
    "collecting_system": {"not dilated": "无扩张", "dilated": "扩张"},
    "pole": {"upper pole": "上极", "interpolar": "中部", "lower pole": "下极"},
    "endometrium": {"uniform": "均匀", "non-uniform": "不均匀"},
    "myometrium": {"homogeneous": "均匀", "heterogeneous": "不均匀"},
    "lesion_kind": {
        "unilocular cyst": "单房囊肿",
        "bilocular cyst": "双房囊肿",
        "multilocular cyst": "多房囊肿",
        "unilocular cyst with solid component": "单房囊肿伴实性成分",
        "bilocular cyst with solid component": "双房囊肿伴实性成分",
        "multilocular cyst with solid component": "多房囊肿伴实性成分",
        "solid lesion": "实性病灶",
        "typical hemorrhagic cyst": "典型出血性囊肿",
        "typical dermoid cyst": "典型皮样囊肿",
        "typical endometrioma": "典型子宫内膜异位囊肿",
        "typical paraovarian cyst": "典型卵巢旁囊肿",
        "typical peritoneal inclusion cyst": "典型腹膜包涵囊肿",
        "typical hydrosalpinx": "典型输卵管积水",
    },
    "fluid": {
        "none": "无（实性）",
        "low-level echoes": "低水平回声",
        "ground glass": "磨玻璃样",
        "reticular pattern": "网状",
        "retracting clot": "血块回缩",
        "hyperechoic component with shadowing": "高回声成分伴声影",
        "hyperechoic lines and dots": "线状及点状高回声",
        "floating echogenic spherical structures": "漂浮球状强回声",
    },
    "papillary_projections": {"0": "0 个", "1": "1 个", "2": "2 个", "3": "3 个", "4 or more": "≥4 个"},
    "color_score": {"1": "1 分", "2": "2 分", "3": "3 分", "4": "4 分"},
    "o_rads": {"0": "0 类", "2": "2 类", "3": "3 类", "4": "4 类", "5": "5 类"},
    "ovary_site": {"ovarian": "卵巢", "extraovarian": "卵巢外"},
    "lv_size": _CHAMBER_ZH,
    "la_size": _CHAMBER_ZH,
    "rv_size": _ENLARGED_ZH,
    "ra_size": _ENLARGED_ZH,
    "lv_systolic_function": {
        "mildly reduced": "轻度减低",
        "moderately reduced": "中度减低",
        "severely reduced": "重度减低",
    },
    "regional_wall_motion": {
        "normal or hyperkinetic": "正常或增强",
        "hypokinetic": "运动减弱",
        "akinetic": "运动消失",
        "dyskinetic": "矛盾运动",
    },
    "aortic_regurgitation": _REGURGITATION_ZH,
    "mitral_regurgitation": _REGURGITATION_ZH,
    "tricuspid_regurgitation": _REGURGITATION_ZH,
    "pericardial_effusion": {"small": "少量", "moderate": "中量", "large": "大量"},
    "mass_kind": {"thrombus": "血栓", "vegetation": "赘生物", "tumor": "肿瘤", "undetermined": "性质待定"},
    "attachment": {"sessile": "宽基底", "pedunculated": "带蒂"},
    "mobility": {"mobile": "可活动", "not mobile": "不活动"},
    "heart_site": {
        "left atrium": "左房",
        "left atrial appendage": "左心耳",
        "left ventricle": "左室",
        "right atrium": "右房",
        "right ventricle": "右室",
        "aortic valve": "主动脉瓣",
        "mitral valve": "二尖瓣",
        "tricuspid valve": "三尖瓣",
        "pulmonary valve": "肺动脉瓣",
    },
    "intima_media": {"thickened": "增厚"},
    "stenosis": {
        "less than 50%": "<50%",
        "50-69%": "50%–69%",
        "70% or more": "≥70%",
        "near occlusion": "次全闭塞",
        "total occlusion": "完全闭塞",
    },
    "vessel_echogenicity": {
        "uniformly echolucent": "均匀低回声",
        "predominantly echolucent": "低回声为主",
        "predominantly echogenic": "强回声为主",
        "uniformly echogenic": "均匀强回声",
        "hidden by calcification": "钙化遮挡",
    },
    "surface": {"ulcerated": "溃疡"},
    "vessel_segment": {
        "common carotid": "颈总动脉",
        "carotid bulb": "颈动脉球部",
        "internal carotid": "颈内动脉",
        "external carotid": "颈外动脉",
    },
}


def title(organ: Organ | None, field: str, language: Language) -> str:
    """How the page names a field.

    Args:
        organ: Whose field; ``None`` for what all organs share.
        field: A field of the lexicon, a text area or ``escape``.
        language: Of the title.

    Raises:
        KeyError: no Chinese title.
    """
    if language == "en":
        return _TITLES.get(field, field.replace("_", " ").capitalize())
    return TITLES_ZH.get(f"{organ}_{field}") or TITLES_ZH[field]


def word(organ: Organ | None, field: str, value: str, language: Language) -> str:
    """How the page shows a value of a choice; the lexicon's own word in English.

    Args:
        organ: Whose field; ``None`` for what all organs share.
        field: A choice field of the lexicon.
        value: One of its admissible values.
        language: Of the word.

    Raises:
        KeyError: no Chinese word.
    """
    if language == "en":
        return value
    for words in (WORDS_ZH.get(f"{organ}_{field}", {}), WORDS_ZH.get(field, {})):
        if value in words:
            return words[value]
    return EVERYWHERE_ZH[value]
