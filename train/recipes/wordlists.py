"""Lists of words behind the rules of `train.recipes.names`."""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


FORMATS = _set("""
    svg png jpg jpeg gif bmp eps pdf ps tiff psd xcf ico html css php xml json csv doc docx xls xlsx ppt pptx txt
    zip rar tar rpm deb exe iso mp mov avi mpeg ogg wav midi py java js ts sql rss md raw odt ai openclipart clipart
    inkscape sodipodi adobe microsoft windows macos nikon canon skoda dodge cisco
""")
"""File formats, and makers of programs and devices."""

BRANDS = _set("""
    google gmail facebook twitter instagram youtube tiktok whatsapp linkedin github gitlab android ios firefox linux
    ubuntu debian tux gnome kde xbill bzflag paypal mastercard spotify netflix aws bing yahoo skype discord wechat
    alipay wikipedia wordpress dribbble behance pinterest reddit telegram snapchat airbnb uber bitcoin ethereum
    litecoin dogecoin arduino dropbox figma adobe photoshop illustrator indesign lightroom gameboy oceanengine faceu
    pangle capcut douyin dianziqian qiyehao feishu lark toutiao xigua vivo tencent baidu weibo patreon stripe
    shopify hotjar blackberry ipad iphone ipod imac macbook playstation xbox nintendo pokeball kallisti oracle nike
    adidas coke
""")
"""Trade marks, whose logos are not wanted."""

FOREIGN = _set("""
    di del della delle dei degli il lo gli con una uno su le la les des du et au aux un une el los las y und der die
    das sur da do dos em para por casa carta tasto mano gatto cane albero fiore fiori utensile pulsante porte sens
    ordre pompe interdit obligatoire suivre danger_de eau feu lac acqua uovo uova pesca stella sole luna
""")
"""Common words of Italian, French, Spanish, Portuguese and German titles."""

EMPTY = _set("""
    a an and at by for from in of on or the to with icon icons symbol symbols logo image picture drawing untitled
    unnamed unknown new file test example template theme svg collection set sample title document layer group path
    attempt rough arki mr mrs jr first second third demo copy draft original final big small hi lo default misc
    other version variant alternate simple plain generic basic object thing illustration graphic design part flat
    color colour open clip art vector
""")
"""Words that any drawing might have in its name."""

JARGON = _set("""
    align sort indent outdent kerning caret chevron cursor checkbox dropdown combobox toggle textarea tooltip
    breadcrumb pagination navbar sidebar hyperlink unlink subscript superscript strikethrough underline italic
    uppercase lowercase kanban sinusoid api url html http https dns cpu gpu ssl sdk regex boolean autoplay undo redo
    ungroup flip skew resize crop distribute layout layers wrap orientation viewport metadata changelog commit pull
    merge fork repository refactor webhook firewall ftp sftp vpn dashed enlarge shrink expand collapse minimize
    maximize fullscreen refresh reload sync upload download login logout signin signout zoom dismiss avif rss rdt
    mqtt json unarchive unsubscribe bluetooth wifi nfc rfid usb hdmi ethernet lan wan sms mms hashtag alignment
    formating formatting seo ui ux apk crm xmark slash pathfinder paragraph heading subheading settings wireframe
    backend frontend devops blockchain currency naval maritime iso led button tasto condom sperm groin gonorrhea
    penis vagina genital stripper sexy nude bdsm poll screenshot unread readme semaphore blueprint pattern gradient
    deltoids hatch kanji rpg aiga px
""")
"""A name with any of these is about a screen or a code, or is nothing for a chat."""

ABSTRACT = _set("""
    add remove delete edit new save open close copy paste cut check checked cancel confirm ok yes no not up down
    left right top bottom center centre middle side inner outer in out on off forward backward forwards next
    previous back begin start end stop play pause skip fast slow more less plus minus equal than greater increase
    decrease horizontal vertical diagonal rotate turn move drag drop swap switch shuffle repeat loop arrow arrows
    line lines dot dots square circle rectangle triangle hexagon polygon octagon pentagon round corner border grid
    list row column text font format type style size width height number bullet order sorting filter search find
    view show hide hidden visible select selection all none mark question information info help alert warning error
    success fail status state active inactive default enable disable disabled enabled setting settings option
    options preference menu input output application app program page tab screen display panel field form code data
    database server network link url share send receive import export transfer exchange one two three four five six
    seven eight nine ten zero first second third last single double triple multiple many big small large high low
    medium full empty half auto manual smart mode level user account profile id login value percent percentage ratio
    discount effect effects blend mask exclude intersect union subtract divide function variable time timing
    overtime process progress loading load quality management system service structure hierarchy diagram chart graph
    statistic statistics analysis analytics report trend sign symbol bold regular dark thin component module element
    content block inbox ai
""")
"""A name of nothing but these shows no thing."""

NUMBERING = _set("""
    one two three four five six seven eight nine ten duo px alternate alt bn
""")
"""Words at the end of a name that only tell one drawing from the next."""

PREPOSITIONS = _set("""
    a an and at by for from in of on or the to with
""")
"""Words that a name does not end in."""

COLOUR_NAMES = _set("""
    beige color colored colour coloured colourful crimson cyan gold golden gray magenta maroon navy rainbow scarlet
    silver teal turquoise violet
""")
"""Words that name a colour, beside those that are measured."""

MASS = _set("""
    rice milk water bread cheese butter honey soup meat bacon tea coffee beer wine juice snow rain ice fire fog mist
    smoke air oil sand grass wood wheat corn garlic salt sugar pasta spaghetti sushi music art money cash gold
    lightning thunder weather wind clothing furniture luggage equipment traffic help love peace health anatomy yin
    shorts jeans scissors trousers pants glasses people children teeth feet men women broccoli popcorn
""")
"""Materials, plurals and the like: no "a" before them."""

NO_ARTICLE = _set("""
    a an down eight five flag four in keycap nine no not off on seven six the three two up
""")
"""First words after which no "a" goes before a name."""

FREE = _set("""
    car automobile bus truck lorry van taxi bicycle bike motorcycle scooter train tram locomotive tractor boat ship
    sailboat canoe yacht airplane plane aeroplane jet helicopter balloon balloons rocket spaceship ufo kayak racecar
    limousine caravan trolleybus minibus trailer wagon cart sled shirt tshirt dress skirt jacket coat hat cap scarf
    gloves glove socks sock shoe shoes boot boots sneaker sandal sari kimono bikini swimsuit necktie tie trousers
    pants shorts vest sweater handbag purse backpack bag suitcase luggage briefcase helmet crown ribbon bow beanie
    slipper clog blouse robe apron mitten umbrella parasol book books notebook pencil pen crayon paintbrush brush
    bucket cup mug teapot kettle jar vase bottle pot pan bowl plate spoon chair couch sofa armchair bed lamp desk
    cabinet wardrobe drawer door window curtain curtains rug towel pillow cushion clock watch phone telephone camera
    television tv radio printer computer laptop keyboard headphone headphones headset speaker microphone guitar drum
    piano trumpet violin accordion toy kite yoyo yo dice die ball marble puzzle gift present box basket bin trash
    wastebasket mailbox postbox toolbox house home cottage castle tent hut barn tower garage hotel building shop
    store lighthouse windmill flower tulip daisy rose blossom bouquet hibiscus lotus hyacinth rosette heart hearts
    star gem diamond crystal ring bead candle lantern bell key lock padlock flashlight hammer screwdriver wrench
    toothbrush comb razor lipstick mirror sponge soap bathtub shower toilet broom wallet envelope folder bookmark
    tag label card trophy medal joystick gamepad robot parachute surfboard skateboard skis sleigh anchor barrel
    crate chess pawn yarn button spool thread scissors stapler paperclip clipboard pushpin pin ruler magnet battery
    glasses goggles sunglasses fan heater iron sewing stroller pram wheelchair ladder shovel saxophone webcam
    projector calculator vault wheel gear cog compass harmonica cassette polaroid floppy disk smartphone gameboy
    syringe thermometer microscope wand urn spray tape drone console controller monorail steering mixer blender
    refrigerator fridge dishwasher washer oven microwave toaster calendar receipt ticket tickets baggage container
    paint roller palette tablet monitor desktop fingerprint alien monster dragon dinosaur sauropod unicorn parrot
    fish bird butterfly snake lizard caterpillar feather watering can hourglass megaphone whistle mask teddy doll
    swing slide carousel
""")
"""Things that come in any colour."""

FIXED = _set("""
    man woman person people boy girl child baby men women face hand hands finger fist thumb ear nose eye eyes lip
    foot leg arm hair beard skin tone head user doctor nurse worker teacher student farmer cook santa mrs claus
    family couple couples kiss flag pirate fire ambulance water ice snow pool coffee tea wine beer milk juice cake
    pie egg fruit apple orange banana lemon strawberry cherry tomato carrot corn rice bread meat food salad soup cat
    dog horse cow pig bear frog lion tiger monkey rabbit mouse elephant fox wolf bee bug insect duck animal tree
    leaf grass sun moon earth globe world mountain sea sky cloud rain night sunset sunrise sunflower traffic zebra
    cross recycling radioactive biohazard map blood gold silver bronze statue liberty tokyo fuji skull ghost zombie
    vampire pumpkin christmas pineapple money dollar euro yen pound credit coin bank smiling emergency rescue
    delivery chef nun bride angel queen king prince princess wheat chicken shark
""")
"""What has a colour of its own, also where the rest of a name does not."""
